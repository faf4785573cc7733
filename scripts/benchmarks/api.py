"""The Interactions API as light as can be: it accepts every call, after a while, and counts.

In a process of its own, and just enough HTTP for the contenders' clients, so that it is never what is measured.

    GET  /count   {"calls", "requests", "busiest"}: since the last reset
    GET  /book    the same with "starts" and "kept"
    POST /reset   {"delay": seconds, "keep": true}: a new book; ``keep`` keeps the calls' bodies, as ``kept``

Times are by the monotonic clock, which all processes of a machine share.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.request import urlopen

TOKEN = b'{"access_token":"light","token_type":"bearer","expires_in":7200}'
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Book:
    """What came in since the last reset.

    Attributes:
        delay: seconds until a call is answered.
        keep: keep the bodies.
        starts: when each call was there as a whole.
        kept: the bodies, where they are kept.
    """

    def __init__(self, delay: float = 0.0, keep: bool = False) -> None:
        self.delay = delay
        self.keep = keep
        self.starts: list[float] = []
        self.kept: list[str] = []
        self.requests = 0
        self.flying = 0
        self.busiest = 0

    def begin(self, body: bytes) -> None:
        """Note a call."""
        self.starts.append(time.monotonic())
        self.requests += body.count(b'"requestid"')
        self.flying += 1
        self.busiest = max(self.busiest, self.flying)
        if self.keep:
            self.kept.append(body.decode())

    def count(self) -> dict[str, Any]:
        """Give the numbers."""
        return {"calls": len(self.starts), "requests": self.requests, "busiest": self.busiest}

    def read(self) -> dict[str, Any]:
        """Give the whole book."""
        return {**self.count(), "starts": self.starts, "kept": self.kept}


class Light(asyncio.Protocol):
    """One connection, kept alive; calls on it come one after the other."""

    def __init__(self, shelf: list[Book]) -> None:
        self._shelf = shelf
        self._got = bytearray()
        self._end = 0  # of the call that is coming in; 0: its head is not there yet
        self._body = 0

    def connection_made(self, transport: Any) -> None:
        """Keep the connection; asyncio has set TCP_NODELAY."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what came; answer when the call is there as a whole."""
        self._got += data
        while self._whole():
            head, body = bytes(self._got[: self._body]), bytes(self._got[self._body : self._end])
            del self._got[: self._end]
            self._end = 0
            self._take(head, body)

    def _whole(self) -> bool:
        if not self._end:
            at = self._got.find(b"\r\n\r\n")
            if at < 0:
                return False
            self._body = at + 4
            length = LENGTH.search(self._got, 0, at)
            self._end = self._body + (int(length[1]) if length else 0)
        return len(self._got) >= self._end

    def _take(self, head: bytes, body: bytes) -> None:
        book = self._shelf[-1]
        if head.startswith(b"POST /interactions/Invoke "):
            book.begin(body)
            if book.delay:
                asyncio.get_running_loop().call_later(book.delay, self._accept, book)
            else:
                self._accept(book)
        elif head.startswith(b"POST /Auth/connect/token "):
            self._answer(TOKEN)
        elif head.startswith(b"POST /reset "):
            self._shelf.append(Book(**json.loads(body)))
            del self._shelf[:-1]
            self._answer(b"{}")
        elif head.startswith(b"GET /count "):
            self._answer(json.dumps(book.count()).encode())
        elif head.startswith(b"GET /book "):
            self._answer(json.dumps(book.read()).encode())
        else:
            self._answer(b'{"message":"Not Found"}', b"404 Not Found")

    def _accept(self, book: Book) -> None:
        book.flying -= 1
        self._answer(b"{}")

    def _answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        self._transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )


class Api:
    """The API from outside.

    Attributes:
        url: its base URL.
        pid: its process.
    """

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def reset(self, delay: float = 0.05, *, keep: bool = False) -> None:
        """Begin a new book; answer calls after so many seconds."""
        body = json.dumps({"delay": delay, "keep": keep}).encode()
        with urlopen(f"{self.url}/reset", body) as answer:
            answer.read()

    def count(self) -> dict[str, int]:
        """Give the calls, the requests and the most calls at once since the last reset; cheap."""
        return self._get("count")

    def book(self) -> dict[str, Any]:
        """Give the same with each call's start time, and its body if they are kept."""
        return self._get("book")

    def _get(self, what: str) -> dict[str, Any]:
        with urlopen(f"{self.url}/{what}") as answer:
            return dict(json.loads(answer.read()))


@contextmanager
def light() -> Iterator[Api]:
    """Run the API in a process of its own, which ends with this one."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError  # both were asked for
    try:
        yield Api(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


async def serve() -> None:
    """Say the port, and answer until standard input is closed."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    shelf = [Book()]
    server = await loop.create_server(partial(Light, shelf), "127.0.0.1", 0)
    loop.add_reader(sys.stdin, over.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await over.wait()


if __name__ == "__main__":
    asyncio.run(serve())
