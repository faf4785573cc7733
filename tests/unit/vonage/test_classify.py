"""What answers and exceptions mean."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain import outcome
from worker.domain.outcome import Outcome
from worker.vonage.classify import Received, classify, classify_token, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "s3cret-words"

NOT_SENT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
}


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    """Walk an exception and everything below it."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def raised(kind: type[Exception]) -> Exception:
    """Make one of any kind."""
    if issubclass(kind, httpx.HTTPStatusError):
        request = httpx.Request("POST", "https://api.example")
        return kind(SECRET, request=request, response=httpx.Response(500))  # type: ignore[call-arg]
    if issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError:
        return kind()
    return kind(SECRET)


def of(status: int, body: bytes = b"", **more: Any) -> Outcome:
    """Classify an answer."""
    return classify(Received(status, body=body, **more), seconds=1.5, now=NOW)


def by_table(status: int) -> type[Outcome]:
    """Read DESIGN's table of outcomes once more, in other words than the code."""
    for kind, statuses in (
        (outcome.Accepted, range(200, 300)),
        (outcome.Refused, (400, 413, 417, 422)),
        (outcome.Throttled, (429,)),
        (outcome.Unauthorised, (401,)),
        (outcome.Forbidden, (403,)),
        (outcome.Unknown, (408, *range(500, 600), *range(100, 200))),
        (outcome.Misdirected, range(300, 500)),
    ):
        if status in statuses:
            return kind
    return outcome.Unknown


@pytest.mark.parametrize("status", [*range(100, 600), -1, 0, 99, 600, 999])
def test_every_status(status: int) -> None:
    """Every status has its outcome, nonsense is Unknown."""
    found = of(status, b'{"message": "said"}')

    assert type(found) is by_table(status)
    assert found.answer.status == status
    assert found.answer.seconds == 1.5


@pytest.mark.parametrize(
    "kind",
    sorted({*tree(httpx.HTTPError), *tree(httpx.InvalidURL), *tree(httpx.StreamError)}, key=str),
)
def test_every_httpx_exception(kind: type[Exception]) -> None:
    """Of all that httpx raises only what comes before the first byte is NotSent, the rest Unknown."""
    found = classify(raised(kind), seconds=2.0, now=NOW)

    assert type(found) is (outcome.NotSent if kind in NOT_SENT else outcome.Unknown)
    assert found.answer.status is None
    assert found.answer.seconds == 2.0
    assert (found.answer.error or "").startswith(kind.__name__)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), outcome.NotSent),
        (socket.gaierror(), outcome.NotSent),
        (ssl.SSLCertVerificationError(), outcome.NotSent),
        (ssl.SSLError(), outcome.Unknown),
        (ConnectionResetError(), outcome.Unknown),
        (BrokenPipeError(), outcome.Unknown),
        (TimeoutError(), outcome.Unknown),
        (OSError(), outcome.Unknown),
        (ValueError(), outcome.Unknown),
    ],
)
def test_other_exceptions(error: Exception, kind: type[Outcome]) -> None:
    """An error of the system's is NotSent only where it can come from connecting alone."""
    assert type(classify(error, seconds=0, now=NOW)) is kind


@pytest.mark.parametrize("kind", [httpx.LocalProtocolError, httpx.RemoteProtocolError, httpx.InvalidURL])
def test_message_of_exception_is_not_quoted(kind: type[Exception]) -> None:
    """A message that can repeat a header or an address stays out of the error line."""
    assert (
        classify(kind(f"Illegal header value b'{SECRET}'"), seconds=0, now=NOW).answer.error == kind.__name__
    )


def test_connect_error_is_quoted() -> None:
    """What the system says about a failed connect is in the error line."""
    found = classify(httpx.ConnectError("[Errno 111] Connection refused"), seconds=0, now=NOW)

    assert found.answer.error == "ConnectError: [Errno 111] Connection refused"


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b"[]", b'"ok"', b"null", b'\xef\xbb\xbf{"a": 1}'])
def test_accepted(body: bytes) -> None:
    """A 2xx with JSON, with or without byte order mark, or without a body is accepted without an error."""
    found = of(200, body)

    assert type(found) is outcome.Accepted
    assert found.answer.error is None


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"OK", b'{"cut": ', b"\xff\xfe", b"\0", b"[" * 50_000, b"9" * 6000, b"{} {}"],
)
def test_unreadable_2xx(body: bytes) -> None:
    """A 2xx with anything else than JSON is neither accepted nor held against the requests."""
    found = of(200, body)

    assert type(found) is outcome.Unknown
    assert found.answer.error == "HTTP 200, but the answer is no JSON"


def test_faulty_2xx() -> None:
    """A 2xx that is not whole is Unknown, although what there is of it reads as JSON."""
    found = of(200, b"{}", fault="the answer broke off (ReadError)")

    assert type(found) is outcome.Unknown
    assert found.answer.error == "HTTP 200, but the answer broke off (ReadError)"


def test_faulty_400() -> None:
    """A refusal counts from its status on, however its body ends."""
    assert type(of(400, b'{"mess', fault="the answer broke off (ReadError)")) is outcome.Refused


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (400, b'{"message": "route is unknown"}', "route is unknown"),
        (413, b'{"message": " Payload\\r\\n\\tToo\\u0000 \\u001b[31mLarge\\u202e"}', "Payload Too [31mLarge"),
        (400, b'{"message": "\\u0000"}', "HTTP 400 Bad Request"),
        (400, b'{"message": 7}', "HTTP 400 Bad Request"),
        (400, b'["message"]', "HTTP 400 Bad Request"),
        (503, b"<h1>busy</h1>", "HTTP 503 Service Unavailable"),
        (599, b"", "HTTP 599"),
    ],
)
def test_error_line(status: int, body: bytes, line: str) -> None:
    """The error is the API's message on one printable line, or else the status."""
    assert of(status, body).answer.error == line


def test_error_line_is_cut() -> None:
    """A long message is cut at 300 characters."""
    assert of(400, b'{"message": "%s"}' % (b"x" * 1000)).answer.error == "x" * 300


def test_body_is_cut() -> None:
    """Of the body 2,000 characters are kept, none of them NUL, which Postgres can't keep."""
    assert of(500, "\0ü".encode() * 3000).answer.body == "ü" * 2000
    assert of(500, b"\xff").answer.body == "\ufffd"


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("3", None, 3.0),
        (" 0 ", None, 0.0),
        ("99999", None, 3600.0),
        ("9" * 5000, None, 3600.0),
        ("-1", None, None),
        ("1.5", None, None),
        ("\u0663", None, None),
        ("soon", None, None),
        ("", None, None),
        ("Fri, 02 Jan 2026 03:04:15 GMT", None, 10.0),
        ("Fri, 02 Jan 2026 03:04:15 -0000", None, 10.0),
        ("Fri, 02 Jan 2026 04:04:15 +0100", None, 10.0),
        ("Fri, 02 Jan 2026 03:04:05 GMT", None, 0.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", "Fri, 02 Jan 2026 03:04:13 GMT", 2.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", "yesterday", 10.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", None, None),
        ("Fri, 02 Jan 2099 03:04:00 GMT", None, 3600.0),
        ("Fri, 99 Jan 2026 99:04:00 GMT", None, None),
    ],
)
def test_retry_after(text: str, date: str | None, seconds: float | None) -> None:
    """Retry-After counts in seconds or as a date by the server's clock, an hour at most, nonsense not."""
    headers = {"retry-after": text} | ({"date": date} if date else {})

    assert retry_after(headers, NOW) == seconds
    assert of(429, headers=headers).answer.retry_after == seconds


@given(text=st.text(), date=st.text())
def test_retry_after_is_total(text: str, date: str) -> None:
    """Whatever the two headers hold, the wait is None or within an hour."""
    found = retry_after({"retry-after": text, "date": date}, NOW)

    assert found is None or 0 <= found <= 3600


@given(status=st.integers(), body=st.binary(), fault=st.none() | st.just("cut"))
def test_classify_is_total(status: int, body: bytes, fault: str | None) -> None:
    """Whatever comes back, there is an outcome, and only a whole 2xx is ever accepted."""
    found = of(status, body, fault=fault)

    assert type(found) is not outcome.Accepted or (200 <= status < 300 and fault is None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, outcome.Unauthorised),
        (401, outcome.Unauthorised),
        (403, outcome.Unauthorised),
        (300, outcome.Misdirected),
        (302, outcome.Misdirected),
        (399, outcome.Misdirected),
        (404, outcome.Misdirected),
        (405, outcome.Misdirected),
        (410, outcome.Misdirected),
        (408, outcome.NotSent),
        (429, outcome.Throttled),
        (101, outcome.NotSent),
        (500, outcome.NotSent),
        (503, outcome.NotSent),
    ],
)
def test_token_statuses(status: int, kind: type[Outcome]) -> None:
    """Whatever the token endpoint answers, no request was sent; who has to act depends on the status."""
    found = classify_token(Received(status, {"retry-after": "7"}), now=NOW)

    assert type(found) is kind
    assert found.answer.status is None
    assert found.answer.retry_after == 7.0


def test_token_endpoint_names_a_date() -> None:
    """A Retry-After date of the token endpoint counts from the time that is given, too."""
    headers = {"retry-after": "Fri, 02 Jan 2026 03:04:15 GMT"}
    assert classify_token(Received(429, headers), now=NOW).answer.retry_after == 10.0


@pytest.mark.parametrize(
    "code",
    "invalid_request invalid_client invalid_grant unauthorized_client unsupported_grant_type invalid_scope".split(),
)
def test_token_error_is_told(code: str) -> None:
    """The error codes that OAuth has (RFC 6749, 5.2) are told to the operator."""
    found = classify_token(Received(400, body=b'{"error": "%s"}' % code.encode()), now=NOW)
    assert found.answer.error == f"token: HTTP 400 Bad Request: {code}"


def test_token_answer_is_not_quoted() -> None:
    """Of a token answer only OAuth's own error codes are shown, for the rest may repeat the secret."""
    known = classify_token(Received(400, body=b'{"error": "invalid_client"}'), now=NOW)
    other = classify_token(Received(400, body=b'{"error": "s3cret", "message": "s3cret"}'), now=NOW)

    assert known.answer.error == "token: HTTP 400 Bad Request: invalid_client"
    assert other.answer.error == "token: HTTP 400 Bad Request"
    assert other.answer.body == ""


def test_token_exception() -> None:
    """A token that could not be read at all leaves the requests certainly unsent."""
    found = classify_token(httpx.ReadTimeout(SECRET), now=NOW)

    assert type(found) is outcome.NotSent
    assert found.answer.error == "token: ReadTimeout"
