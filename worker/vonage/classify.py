"""Say what an answer or an exception means for the requests of its call: pure, and total.

The table of outcomes is in ``worker.domain.outcome``; what a status means is from the reference's
*Responses*. Whatever does not prove the opposite counts as ``Unknown``: perhaps processed.
"""

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx
import msgspec

from worker.domain import outcome
from worker.domain.outcome import Answer, Outcome

BODY_KEPT = 2_000
"""Characters of an answer that are kept with the call's record."""

ERROR_KEPT = 300
"""Characters of the line that people read."""

RETRY_AFTER_BOUND = 3_600.0
"""Seconds: no answer may stop us for longer."""

NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
    ConnectionRefusedError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
)
"""What is raised before the first byte of a request is written, and never after."""

_BY_STATUS: dict[int, type[Outcome]] = {
    400: outcome.Refused,
    401: outcome.Unauthorised,
    403: outcome.Forbidden,
    408: outcome.Unknown,
    413: outcome.Refused,
    417: outcome.Refused,
    422: outcome.Refused,
    429: outcome.Throttled,
}

# RFC 6749 names these; nothing else of a token answer is shown, for it may repeat what it was sent.
_OAUTH_ERRORS = frozenset(
    (
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    )
)


@dataclass(frozen=True, slots=True)
class Received:
    """An answer whose status was read.

    Attributes:
        status: the HTTP status.
        headers: its headers; names are looked up in lower case.
        body: as much of the body as was read.
        fault: why this is not the whole answer to the whole request, for people; None where it is.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: str | None = None


def classify(got: Received | Exception, *, seconds: float, now: datetime) -> Outcome:
    """Make an outcome of what a call to Invoke came to.

    Args:
        got: the answer, or what was raised instead of one.
        seconds: how long the call took.
        now: the time that a ``Retry-After`` date is held against where the answer has no ``Date``.
    """
    if isinstance(got, Exception):
        kind = outcome.NotSent if isinstance(got, NEVER_SENT) else outcome.Unknown
        return kind(Answer(error=failure_line(got), seconds=seconds))
    wrong = _why_not_accepted(got)
    return _kind(got.status, wrong)(
        Answer(
            status=got.status,
            error=wrong,
            body=_text(got.body)[:BODY_KEPT],
            retry_after=retry_after(got.headers, now),
            seconds=seconds,
        )
    )


def classify_token(got: Received | Exception, *, now: datetime) -> Outcome:
    """Make an outcome of why there is no token; Invoke was not called, so no request was sent.

    Nothing of the answer is kept but its status and an error code of OAuth: it may repeat the secret. The
    outcome's status is None, since it is about Invoke.
    """
    if isinstance(got, Exception):
        return outcome.NotSent(Answer(error=f"token: {failure_line(got)}"))
    code = _member(got.body, "error")
    shown = f": {code}" if code in _OAUTH_ERRORS else ""
    line = f"token: {_status_line(got.status)}{shown}"
    return _token_kind(got.status)(Answer(error=line, retry_after=retry_after(got.headers, now)))


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read ``Retry-After``, in seconds or as a date, as seconds from 0 to an hour; None for nonsense."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+", text, re.ASCII):
        return min(float(text), RETRY_AFTER_BOUND)
    until = _date(text)
    if until is None:
        return None
    # The server's own clock where it tells us: ours may be wrong.
    rest = (until - (_date(headers.get("date", "")) or now)).total_seconds()
    return min(rest, RETRY_AFTER_BOUND) if rest >= 0 else None


def failure_line(error: Exception) -> str:
    """Name an exception in one line.

    Only what the operating system says about a connect is quoted: other messages can hold a header.
    """
    name = type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and (said := _line(str(error))):
        return f"{name}: {said}"
    return name


def json_of(body: bytes) -> Any:
    """Read JSON, with or without a byte order mark; raises ValueError for anything else."""
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _kind(status: int, wrong: str | None) -> type[Outcome]:
    if wrong is None:
        return outcome.Accepted
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return outcome.Misdirected if 300 <= status < 500 else outcome.Unknown


def _token_kind(status: int) -> type[Outcome]:
    if status == 429:
        return outcome.Throttled
    if status == 408:
        return outcome.NotSent
    if 300 <= status < 400 or status in (404, 405, 410):
        return outcome.Misdirected
    return outcome.Unauthorised if 400 <= status < 500 else outcome.NotSent


def _why_not_accepted(got: Received) -> str | None:
    if not 200 <= got.status < 300:
        return _line(_member(got.body, "message")) or _status_line(got.status)
    if got.fault:
        return f"HTTP {got.status}, but {got.fault}"
    if got.body.strip() and not _is_json(got.body):
        return f"HTTP {got.status}, but the answer is no JSON"
    return None


def _status_line(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _is_json(body: bytes) -> bool:
    try:
        json_of(body)
    except ValueError:
        return False
    return True


def _member(body: bytes, name: str) -> str:
    try:
        found = json_of(body)
    except ValueError:
        return ""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


def _line(text: str) -> str:
    return "".join(filter(str.isprintable, " ".join(text.split())))[:ERROR_KEPT].strip()


def _text(body: bytes) -> str:
    return body[: 4 * BODY_KEPT].decode("utf-8", "replace").replace("\0", "")  # Postgres keeps no NUL


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
