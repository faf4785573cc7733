"""What a call can be answered with, the unkind answers included."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from math import ceil
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DRIP_PAUSE = 0.05
"""The longest wait between two bytes of a dripped answer, in seconds."""


def json_answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def message(status: int, text: str) -> Response:
    """Answer as the API words its errors."""
    return json_answer({"message": text}, status)


def html(status: int) -> Response:
    """Answer as a proxy or a gateway does, which knows nothing of JSON."""
    return Response(f"<html><body><h1>{status}</h1></body></html>", status, media_type="text/html")


def garbled() -> Response:
    """Answer with JSON that breaks off."""
    return Response(b'{"message": "Acc', media_type="application/json")


class Accepted(Response):
    """200: every request was processed."""

    def __init__(self) -> None:
        super().__init__(b"{}", media_type="application/json")


class Throttled(Response):
    """429: the fair usage limit.

    Args:
        retry_after: seconds; None sends no ``Retry-After``.
        http_date: send it as a date, rounded up to the whole second that HTTP knows.
    """

    def __init__(self, retry_after: float | None = None, *, http_date: bool = False) -> None:
        body = msgspec.json.encode({"message": "Too Many Requests"})
        super().__init__(body, 429, media_type="application/json")
        self._seconds = retry_after or 0.0
        self._date = ceil(time.time() + self._seconds) if http_date else None
        if retry_after is not None:
            text = formatdate(self._date, usegmt=True) if self._date else f"{retry_after:.12g}"
            self.headers["retry-after"] = text

    def ends(self, sent_at: float) -> float:
        """Tell when ``Retry-After`` has passed, as a Unix time, for an answer sent at ``sent_at``."""
        return self._date or sent_at + self._seconds


class Cut(Response):
    """No answer at all: the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is sent
        """Close the connection that the call came over."""
        cut: Callable[[], None] = scope["state"]["cut"]
        cut()


class Dripping(Response):
    """Another answer, byte by byte; spaces before its body make it long enough.

    Args:
        answer: what is dripped.
        seconds: how long the body takes.
    """

    def __init__(self, answer: Response, seconds: float) -> None:
        spaces = b" " * ceil(seconds / DRIP_PAUSE)
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        super().__init__(
            spaces + bytes(answer.body), answer.status_code, headers, background=answer.background
        )
        self._pause = seconds / len(self.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's shape
        """Send the headers, then one byte after each pause."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for byte in bytes(self.body):
            await asyncio.sleep(self._pause)
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        if self.background is not None:
            await self.background()
