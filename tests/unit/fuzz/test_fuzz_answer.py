"""Whatever the API or its token endpoint says, over a real connection: there is an outcome, and in time."""

import gzip
import json
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from worker.domain.outcome import Accepted, Misdirected, NotSent, Outcome, Unknown
from worker.settings import Settings, SettingsError
from worker.vonage.auth import LONGEST_LIFE, _life
from worker.vonage.classify import RETRY_AFTER_BOUND, json_of, retry_after
from worker.vonage.invoke import Api
from worker.vonage.payload import encode
from worker.vonage.transport import CAP, check_urls

TOKEN = b't0ken/+"#'
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Says:
    """A server that says what it is told to say, byte by byte, and hangs up."""

    def __init__(self) -> None:
        self.invoke = self.token = b""
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up for good."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, suppress(OSError):
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(2)
        asked = peer.recv(65_536)
        self.asked += 1
        peer.sendall(self.token if asked.startswith(b"POST /Auth") else self.invoke)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65_536):
            pass


def good(body: bytes, *headers: bytes) -> bytes:
    """An answer that is in order, but for its headers and its body; the next call is not to meet the hanging up."""
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), b"connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


GRANT = good(json.dumps({"access_token": TOKEN.decode(), "expires_in": 7200}).encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Says]:
    """Run the server."""
    running = Says()
    yield running
    running.close()


@pytest.fixture(scope="module")
def api(server: Says) -> Iterator[Api]:
    """Call the server, for two seconds at most."""
    server.token = GRANT
    made = Api(
        Settings(client_id="me", client_secret="hush", api_url=server.url, auth_url=server.url, timeout=2)
    )
    yield made
    made.close()


def sound(found: Outcome) -> Outcome:
    """Hold an outcome to what its readers rely on."""
    answer = found.answer
    assert isinstance(found, get_args(Outcome))
    assert (answer.error or "x").isprintable()
    assert len(answer.error or "") <= 400
    assert answer.retry_after is None or 0 <= answer.retry_after <= RETRY_AFTER_BOUND
    assert b"\0" not in answer.body.encode()
    assert "t0ken" not in f"{answer.error} {answer.body}"
    assert answer.seconds < 20  # the deadline is 2, and the machine may be busy
    assert not isinstance(found, Accepted) or (200 <= (answer.status or 0) < 300 and not answer.error)
    return found


line = st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))
numbers = st.sampled_from(
    [b"0", b"2", b"-1", b"9" * 5000, b"1e3", b"0x10", b"\xd9\xa3", b"2, 2", b" 2 ", b""]
)
odd = st.sampled_from(
    [
        b"gzip", b"gzip, gzip", b"br", b"zstd", b"identity", b"chunked", b"upgrade", b"http://[::1", b"//", b"close",
        b"Fri, 02 Jan 99999 03:04:15 GMT", b"Fri, 02 Jan 2026 03:04:15 +9999", b"text/html; charset=idna",
        b"a=b; max-age=%s; expires=Mon, 01-Jan-99999 00:00:00 GMT" % (b"9" * 5000), b"\xff\xfe", b"a=" + b"(" * 9000,
    ]
)  # fmt: skip
names = st.sampled_from(
    b"content-length content-encoding transfer-encoding retry-after date set-cookie set-cookie2 location connection"
    b" upgrade www-authenticate content-type x".split()
)
headers = st.tuples(names, numbers | odd | line).map(lambda pair: b"%s: %s\r\n" % pair)
statuses = st.sampled_from(
    [
        b"200 OK",
        b"204",
        b"100 Continue",
        b"101 Up",
        b"302 F",
        b"401 U",
        b"429 T",
        b"500 \xff",
        b"099 x",
        b"1000 x",
        b"2",
    ]
)
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"{}", b"\xef\xbb\xbf{}", b"[" * 9_000, b'{"message":' * 9_000, b"NaN", b"9" * 5_000, b'"\\ud800"',
            b'{"message": "\\u2028\\u0000\\u202e\\ud800\\udc00 %s"}' % json.dumps(TOKEN.decode())[1:-1].encode(),
            b'{"message": "' + b"x" * 9_000 + b'"}', gzip.compress(b"{}"), gzip.compress(b"{}")[:-3],
            zlib.compress(b"1"),
            b"2\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffff\r\n{}", b"2;x=\xff\r\n{}\r\n0\r\nx: \xff\r\n\r\n", TOKEN,
        ]
    ),
)  # fmt: skip
answers = st.binary(max_size=80) | st.builds(
    lambda version, status, lines, end, body: (
        version + b" " + status + b"\r\n" + b"".join(lines) + end + body
    ),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"ICY"]),
    statuses | line,
    st.lists(headers, max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b""]),
    bodies,
)


@examples(max_examples=120)
@given(answer=answers)
def test_any_answer(server: Says, api: Api, answer: bytes) -> None:
    """Whatever Invoke is answered, there is an outcome, and no answer but a whole 2xx is accepted."""
    server.invoke, server.token = answer, GRANT
    sound(api.invoke(b"{}"))


@examples(max_examples=30)
@given(answer=answers)
def test_any_token_answer(server: Says, answer: bytes) -> None:
    """Whatever the token endpoint answers, there is an outcome, and none of its words in it."""
    server.token = answer
    # so short that nothing is asked twice
    api = Api(Settings(client_id="me", client_secret="hush", auth_url=server.url, timeout=0.04))
    found = sound(api.check())
    api.close()
    assert found.answer.body == ""


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1_000_000,
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 10_000_000,
        b"HTTP/1.1 200 OK\r\n" + b" folded\r\n" * 1_000_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200_000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000_000,
        b"\0" * 5_000_000,
    ],
    ids=range(7),
)
def test_endless_answers(server: Says, api: Api, answer: bytes) -> None:
    """An answer that does not end is left alone, within the deadline and in little memory."""
    server.invoke, server.token = answer, GRANT
    tracemalloc.start()
    found = sound(api.invoke(b"{}"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(found) is Unknown
    assert peak < 10_000_000


@pytest.mark.parametrize("status", [b"301 M", b"302 F", b"303 S", b"307 T", b"308 P"])
@pytest.mark.parametrize("of", ["invoke", "token"])
def test_a_redirect_is_not_followed(server: Says, status: bytes, of: str) -> None:
    """Whoever redirects a call gets neither the token nor the credentials sent elsewhere."""
    elsewhere = Says()
    server.invoke, server.token = good(b"{}"), GRANT
    setattr(server, of, good(b"", b"location: %s/x" % elsewhere.url.encode()).replace(b"200 OK", status))
    api = Api(
        Settings(client_id="me", client_secret="hush", api_url=server.url, auth_url=server.url, timeout=2)
    )
    assert type(sound(api.invoke(b"{}"))) is Misdirected
    api.close()
    elsewhere.close()
    assert elsewhere.asked == 0


BOMB = gzip.compress(b"0" * 30_000_000)


@pytest.mark.parametrize(
    ("body", "encoding", "kind", "error"),
    [
        (gzip.compress(b"{}"), b"gzip", Accepted, None),
        (zlib.compress(b"{}"), b"DEFLATE", Accepted, None),
        (b"", b"gzip", Accepted, None),
        (b"{}", b"identity", Accepted, None),
        (b"{}", b"gzip", Unknown, "packed in a way that was not asked for"),
        (b"xx", b"br, zstd, deflate", Unknown, "packed in a way that was not asked for"),
        (gzip.compress(b"{}")[:-3], b"gzip", Unknown, "broke off"),
        (gzip.compress(b" " * (CAP + 1)), b"gzip", Unknown, "too long"),
        (BOMB, b"gzip", Unknown, "too long"),
        (gzip.compress(gzip.compress(BOMB)), b"gzip, gzip, gzip", Unknown, "no JSON"),
    ],
    ids=range(10),
)
def test_packed_answers(
    server: Says, api: Api, body: bytes, encoding: bytes, kind: type[Outcome], error: str | None
) -> None:
    """An answer that came packed is read if it is small, and never unpacked to more than is read of any."""
    server.invoke, server.token = good(body, b"content-encoding: " + encoding), GRANT
    tracemalloc.start()
    found = sound(api.invoke(b"{}"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(found) is kind
    assert (error or "") in (found.answer.error or ""), found
    assert peak < 5_000_000


@pytest.mark.parametrize(
    "token",
    [rb't0ken/+"#', rb"t0ken/+\"#", rb"t0ken\/+\"#", rb"t0ken/\u002b\u0022#", rb"T0KEN/\u002B\u0022#"],
)
def test_a_token_in_an_answer(server: Says, api: Api, token: bytes) -> None:
    """An answer that repeats the token, also as JSON writes it, is kept without it."""
    body = b'{"message": "bad header: Bearer %s"}' % token
    server.invoke, server.token = good(body).replace(b"200 OK", b"400 Bad"), GRANT
    found = sound(api.invoke(b"{}"))
    assert "Bearer ***" in found.answer.body
    assert token == TOKEN or found.answer.error == "bad header: Bearer ***"


WORDS = "Jane's kettle\n leaks: Grüße\u2028 \\\\ \" 7"
REPEATS = "and the answer repeats the call"


@pytest.mark.parametrize(
    "request_",
    [
        {"linkeddata": [{"type": "name", "value": WORDS}]},
        {"linkeddata": [{"type": "url", "label": WORDS, "value": ""}]},
        {"extra": {"note": [{"x": WORDS}]}},
        {"note": WORDS},
    ],
    ids=range(4),
)
@pytest.mark.parametrize("before", [0, 250, 280, 290])
@pytest.mark.parametrize(
    "written", [str, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)], ids=range(3)
)
def test_words_in_an_answer(
    server: Says, api: Api, request_: dict[str, Any], before: int, written: Callable[[str], str]
) -> None:
    """Where the API's message repeats what a customer wrote, even where it is cut off, the error line does not."""
    call = {"action": "dispatch", "externalid": "e", "route": "Route 66", "requestid": "r", **request_}
    told = json.dumps({"message": "y" * before + written(WORDS)}).encode()
    server.invoke, server.token = good(told).replace(b"200 OK", b"400 Bad"), GRANT
    found = sound(api.invoke(encode("", [call])))
    assert found.answer.error == f"HTTP 400, {REPEATS}"


def test_ids_in_an_answer(server: Says, api: Api) -> None:
    """A message that names the interaction, its route or a short text is told as it is."""
    call = {"action": "dispatch", "externalid": "case-1002", "route": "Route 66", "requestid": "r"}
    call |= {"linkeddata": [{"type": "name", "value": "case"}], "routingdata": {"interactiontype": "nonlive"}}
    message = "case-1002: Route 66 does not exist for nonlive"
    told = json.dumps({"message": message}).encode()
    server.invoke, server.token = good(told).replace(b"200 OK", b"400 Bad"), GRANT
    assert sound(api.invoke(encode("", [call]))).answer.error == message


# --- the parts that need no connection -----------------------------------------------------------

dates = st.builds(
    "{}{} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Fri, ", "", "Friday, ", ",", ", , "]),
    st.integers(-1, 40) | st.just("9" * 400),
    st.sampled_from(["Jan", "JAN", "Febr", "13", ""]),
    st.sampled_from([0, 1, 99, 1969, 2026, 9999, 10_000, "9" * 5000, -1]),
    st.integers(-1, 30), st.integers(-1, 70), st.sampled_from([0, 59, 60, "1.5", ""]),
    st.sampled_from(["GMT", "+0000", "-0000", "+9999", "-2400", "+" + "9" * 400, "EST", "", "(" * 50]),
)  # fmt: skip


@given(text=dates | st.text(), date=dates | st.text())
@example(text="Fri, 31 Dec 9999 23:59:59 -2359", date="Mon, 01 Jan 0001 00:00:00 +2359")
def test_any_retry_after(text: str, date: str) -> None:
    """Whatever stands in Retry-After and Date, nearly dates too, the wait is none or within an hour."""
    found = retry_after({"retry-after": text, "date": date}, NOW)
    assert found is None or 0 <= found <= RETRY_AFTER_BOUND


@pytest.mark.parametrize(
    "text", ["(" * 90_000, "Fri, " * 20_000, "1:" * 45_000, "-" * 90_000, "9" * 90_000, ", " * 45_000]
)
def test_long_retry_after(text: str) -> None:
    """The longest header that is read is looked at in no time."""
    started = time.process_time()
    retry_after({"retry-after": text, "date": text}, NOW)
    assert time.process_time() - started < 5


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3)
)
@example("1e999")
@example("9" * 5000)
@example("-0.0")
def test_any_life(expires_in: object) -> None:
    """Whatever stands in expires_in, a token is kept for some time, a day at most."""
    assert 0 < _life(expires_in) <= LONGEST_LIFE


@given(st.binary())
def test_any_json(body: bytes) -> None:
    """An answer's body is JSON, or a ValueError."""
    with suppress(ValueError):
        json_of(body)


@given(st.text(st.characters()) | st.from_regex(r"https?://[a-z0-9.:@\[\]/?#%\\-]{0,20}", fullmatch=True))
@example("https://api.example:99999")
@example("https://api.example:0")
@example("https://[::1")
@example("https://\udcff")
@example("https://xn--\u2028.example")
def test_any_address(text: str) -> None:
    """Whatever is set as the API's address, it is one that can be called, or the refusal names the setting."""
    settings = Settings.model_construct(api_url=text, client_id="me", client_secret="")
    try:
        check_urls(settings)
    except SettingsError as error:
        said = str(error)
    else:
        said = "VCC_API_URL: may be called"
    assert said.startswith("VCC_API_URL: ")
    assert said.isprintable()


def test_a_port_out_of_range(server: Says) -> None:
    """A port that the system would take for another one is refused before anything is sent there."""
    port = int(server.url.rpartition(":")[2]) + 65_536
    with pytest.raises(SettingsError, match="VCC_AUTH_URL: has no such port"):
        Api(Settings(auth_url=f"http://127.0.0.1:{port}"))


def test_nobody_speaks(server: Says) -> None:
    """A server that says nothing at all leaves the request certainly unsent, for there was no token."""
    server.token = b""
    api = Api(Settings(client_id="me", client_secret="hush", auth_url=server.url, timeout=0.3))
    assert type(sound(api.invoke(b"{}"))) is NotSent
    api.close()
