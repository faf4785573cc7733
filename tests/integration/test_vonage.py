"""Calls to a real HTTP server that answers by script, also wrongly, slowly and not at all."""

import json
import logging
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import certifi
import pytest

from tests.certificate import CERTIFICATE
from worker.domain import outcome
from worker.domain.outcome import Outcome
from worker.settings import Settings, SettingsError
from worker.vonage import auth
from worker.vonage.deadline import Deadline
from worker.vonage.invoke import Api

TOKEN = "/Auth/connect/token"
INVOKE = "/interactions/Invoke"
BODY = b'{"requests":[{"action":"dispatch","externalid":"Jane Doe"}]}'
SECRET = "hush/&=hush"


@dataclass
class Seen:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]


@dataclass
class Reply:
    """One answer; ``act`` writes it by hand instead."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    act: Callable[["Handler"], None] | None = None


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's script."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        """Note the request and give the next answer of its path."""
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.note(Seen(self.path, headers, body, self.client_address))
        if reply.act:
            reply.act(self)
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A token endpoint and an Invoke endpoint; each answers by its script, then in good health."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Seen] = []
        self.tokens: deque[Reply] = deque()
        self.invokes: deque[Reply] = deque()
        self.stopping = threading.Event()
        self._issued = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def note(self, seen: Seen) -> Reply:
        """Keep a request, and take the answer that is next."""
        with self._lock:
            self.seen.append(seen)
            script = self.tokens if seen.path == TOKEN else self.invokes
            if script:
                return script.popleft()
            if seen.path == INVOKE:
                return Reply()
            self._issued += 1
            return token_reply(f"token-{self._issued}")

    def at(self, path: str) -> list[Seen]:
        """The requests that came to one path."""
        return [seen for seen in self.seen if seen.path == path]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what many of these tests are about."""


def token_reply(token: Any, **more: Any) -> Reply:
    """A token as the reference shows it."""
    fields = {"access_token": token, "token_type": "bearer", "expires_in": 7200} | more
    return Reply(body=json.dumps(fields).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server for one test."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stopping.set()
        running.shutdown()
        thread.join()


Connect = Callable[..., Api]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Make APIs that call the server unless told otherwise."""
    made: list[Api] = []

    def make(**values: Any) -> Api:
        usual = {
            "client_id": "me",
            "client_secret": SECRET,
            "api_url": server.url,
            "auth_url": server.url,
            "timeout": 20.0,
        }
        made.append(Api(Settings(**(usual | values))))
        return made[-1]

    yield make
    for api in made:
        api.close()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def drip(first: bytes, more: bytes) -> Callable[[Handler], None]:
    """Answer ``first``, and then ``more`` again and again, a little at a time."""

    def act(handler: Handler) -> None:
        handler.wfile.write(first)
        while not handler.server.stopping.wait(0.02):
            handler.wfile.write(more)

    return act


def raw(answer: bytes) -> Callable[[Handler], None]:
    """Answer these bytes and hang up."""

    def act(handler: Handler) -> None:
        handler.wfile.write(answer)

    return act


# The call itself


def test_the_wire(server: Server, connect: Connect) -> None:
    """A call is one POST of the body as it is, with the three documented headers and no cookie."""
    server.invokes.append(Reply(headers={"set-cookie": "sticky=1"}))
    api = connect()
    for _ in range(2):
        assert type(api.invoke(BODY)) is outcome.Accepted

    first, second = server.at(INVOKE)
    ours = ("accept", "authorization", "content-type")
    assert first.body == BODY
    assert {name: first.headers[name] for name in ours} == {
        "accept": "application/vnd.newvoicemedia.v1+json",
        "authorization": "Bearer token-1",
        "content-type": "application/json",
    }
    assert set(first.headers) - set(ours) == {
        "host",
        "user-agent",
        "accept-encoding",
        "connection",
        "content-length",
    }
    assert first.headers["user-agent"].startswith("vcc-worker/")
    assert "cookie" not in second.headers


def test_a_large_body(server: Server, connect: Connect) -> None:
    """A body at the limit arrives byte for byte, although it is written in pieces."""
    body = bytes(n % 251 for n in range(100_000))

    assert type(connect().invoke(body)) is outcome.Accepted
    assert server.at(INVOKE)[0].body == body


def test_the_token_request(server: Server, connect: Connect) -> None:
    """The token is asked for once, by client credentials in a form."""
    api = connect()
    for _ in range(3):
        api.invoke(BODY)

    (asked,) = server.at(TOKEN)
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(asked.body.decode(), strict_parsing=True) == {
        "grant_type": ["client_credentials"],
        "client_id": ["me"],
        "client_secret": [SECRET],
        "scope": ["interactions:write"],
    }


def test_a_connection_is_kept(server: Server, connect: Connect) -> None:
    """Calls one after the other go over one connection."""
    api = connect()
    for _ in range(3):
        api.invoke(BODY)

    assert len({seen.peer for seen in server.seen}) == 1


@pytest.mark.parametrize(
    ("reply", "kind", "error"),
    [
        (Reply(202, b""), outcome.Accepted, None),
        (Reply(200, b"<html>sign in</html>"), outcome.Unknown, "HTTP 200, but the answer is no JSON"),
        (Reply(400, b'{"message": "no such route"}'), outcome.Refused, "no such route"),
        (Reply(403, b""), outcome.Forbidden, "HTTP 403 Forbidden"),
        (Reply(503, b"<h1>busy</h1>"), outcome.Unknown, "HTTP 503 Service Unavailable"),
        (Reply(404, b"x"), outcome.Misdirected, "HTTP 404 Not Found"),
        (Reply(302, b"", {"location": TOKEN}), outcome.Misdirected, "HTTP 302 Found"),
        (Reply(200, b" " * 70_000), outcome.Unknown, "HTTP 200, but the answer is too long"),
        (
            Reply(200, b"{}", {"content-encoding": "gzip"}),
            outcome.Unknown,
            "HTTP 200, but the answer is packed in a way that was not asked for",
        ),
    ],
)
def test_answers(
    server: Server, connect: Connect, reply: Reply, kind: type[Outcome], error: str | None
) -> None:
    """An answer becomes its outcome with its status, its error and its time, and nothing is sent twice."""
    server.invokes.append(reply)

    found = connect().invoke(BODY)

    assert type(found) is kind
    assert (found.answer.status, found.answer.error) == (reply.status, error)
    assert 0 < found.answer.seconds < 20
    assert [seen.path for seen in server.seen] == [TOKEN, INVOKE]


def test_throttled(server: Server, connect: Connect) -> None:
    """A 429 says for how long."""
    server.invokes.append(Reply(429, b"", {"Retry-After": "3"}))

    found = connect().invoke(BODY)

    assert type(found) is outcome.Throttled
    assert found.answer.retry_after == 3.0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_cut_or_nonsense(server: Server, connect: Connect, answer: bytes) -> None:
    """An answer that breaks off, or is no HTTP, leaves open what happened, and is not tried again here."""
    server.invokes.append(Reply(act=raw(answer)))

    assert type(connect().invoke(BODY)) is outcome.Unknown
    assert len(server.at(INVOKE)) == 1


def test_an_early_2xx_accepts_nothing(connect: Connect) -> None:
    """A 2xx to a request that the server did not take to its end is no acceptance."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_early() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                peer.shutdown(socket.SHUT_RD)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=answer_early)
        thread.start()
        found = connect(api_url=f"http://127.0.0.1:{listener.getsockname()[1]}").invoke(b"x" * 50_000_000)
        thread.join()

    assert type(found) is outcome.Unknown


# The deadline


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    ],
    ids=["silence", "continue", "headers", "body"],
)
def test_a_drip_does_not_outlive_the_deadline(
    server: Server, connect: Connect, first: bytes, more: bytes
) -> None:
    """A server that keeps sending a little is left when the time is up; what happened is unknown."""
    server.invokes.append(Reply(act=drip(first, more)))

    found = connect(timeout=1.5).invoke(BODY)

    assert type(found) is outcome.Unknown
    assert 1.0 < found.answer.seconds < 30


def test_a_dripping_token_leaves_no_time(server: Server, connect: Connect) -> None:
    """Time that the token used up is missing for the call, which then is certainly not sent."""
    server.tokens.append(Reply(act=drip(b"HTTP/1.1 200 OK\r\n\r\n", b" ")))

    found = connect(timeout=1.5).invoke(BODY)

    assert type(found) is outcome.NotSent
    assert 1.0 < found.answer.seconds < 30
    assert not server.at(INVOKE)


def test_a_refusal_that_drips(server: Server, connect: Connect) -> None:
    """A status that was read counts, although its body never ends."""
    start = b'HTTP/1.1 429 Slow Down\r\nretry-after: 5\r\n\r\n{"message": "'
    server.invokes.append(Reply(act=drip(start, b"x")))

    found = connect(timeout=1.5).invoke(BODY)

    assert type(found) is outcome.Throttled
    assert found.answer.retry_after == 5.0


def test_a_long_answer_is_not_read_on(server: Server, connect: Connect) -> None:
    """Reading stops at the cap, long before the deadline."""
    server.invokes.append(Reply(act=drip(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 40_000)))

    found = connect(timeout=60.0).invoke(BODY)

    assert type(found) is outcome.Unknown
    assert found.answer.error == "HTTP 200, but the answer is too long"
    assert found.answer.seconds < 20


# Connecting


def test_nobody_listens(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is tried three times and certainly sent nothing."""
    port = free_port()
    asked: list[str] = []
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: asked.append(host) or look_up(host, *rest, **more),
    )

    found = connect(api_url=f"http://localhost:{port}").invoke(BODY)

    assert type(found) is outcome.NotSent
    assert "refused" in (found.answer.error or "")
    assert found.answer.status is None
    assert asked.count("localhost") == 3


def test_the_server_comes_back_between_tries(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that can be made at the second try carries the call, once."""
    look_up = socket.getaddrinfo
    failing = deque([socket.gaierror(-3, "Temporary failure in name resolution")])

    def flaky(host: str, *rest: Any, **more: Any) -> Any:
        if host == "localhost" and failing:
            raise failing.pop()
        return look_up("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", flaky)
    found = connect(api_url=server.url.replace("127.0.0.1", "localhost")).invoke(BODY)

    assert type(found) is outcome.Accepted
    assert not failing
    assert len(server.at(INVOKE)) == 1


@pytest.fixture
def tls_server(tmp_path: Path, server: Server) -> Iterator[str]:
    """Put TLS in front of the server; its certificate is signed by nobody else."""
    pem = tmp_path / "localhost.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    get_request = server.get_request

    def wrapped() -> Any:
        peer, address = get_request()
        peer.settimeout(10)
        try:
            return context.wrap_socket(peer, server_side=True), address
        except OSError:
            peer.close()
            raise

    server.get_request = wrapped  # type: ignore[method-assign]
    return server.url.replace("http://", "https://")


def test_an_unknown_certificate(tls_server: str, server: Server, connect: Connect) -> None:
    """A certificate that nobody vouches for ends the call before anything is sent."""
    found = connect(api_url=tls_server, auth_url=tls_server).invoke(BODY)

    assert type(found) is outcome.NotSent
    assert "CERTIFICATE_VERIFY_FAILED" in (found.answer.error or "")
    assert not server.seen


def test_tls(
    tls_server: str, server: Server, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS with a certificate that is vouched for, calls work and keep to the deadline too."""
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "localhost.pem"))
    server.invokes.extend([Reply(), Reply(act=drip(b"HTTP/1.1 200 OK\r\n", b"x"))])

    found = connect(api_url=tls_server, auth_url=tls_server).invoke(BODY)
    assert type(found) is outcome.Accepted
    late = connect(api_url=tls_server, auth_url=tls_server, timeout=2.0).invoke(BODY)
    assert type(late) is outcome.Unknown
    assert 1.5 < late.answer.seconds < 30


def test_http_elsewhere_is_refused(connect: Connect) -> None:
    """An API in the clear on another machine is refused before anything is called."""
    with pytest.raises(SettingsError, match=r"VCC_API_URL.*VCC_ALLOW_HTTP"):
        connect(api_url="http://api.example")


# The token


def test_401_then_accepted(server: Server, connect: Connect) -> None:
    """A 401 is answered with a fresh token and the same body."""
    server.invokes.append(Reply(401))

    assert type(connect().invoke(BODY)) is outcome.Accepted
    assert [seen.headers["authorization"] for seen in server.at(INVOKE)] == [
        "Bearer token-1",
        "Bearer token-2",
    ]
    assert [seen.body for seen in server.at(INVOKE)] == [BODY, BODY]


def test_401_with_a_fresh_token(server: Server, connect: Connect) -> None:
    """A 401 to the fresh token too is Unauthorised after two calls."""
    server.invokes.extend([Reply(401), Reply(401, b'{"message": "who are you"}')])

    found = connect().invoke(BODY)

    assert type(found) is outcome.Unauthorised
    assert found.answer.error == "who are you"
    assert len(server.at(INVOKE)) == 2


def test_401_and_no_fresh_token(server: Server, connect: Connect) -> None:
    """A 401 after which the token endpoint refuses tells the endpoint's refusal."""
    server.invokes.append(Reply(401))
    server.tokens.extend([token_reply("a"), Reply(400, b'{"error": "invalid_client"}')])

    found = connect().invoke(BODY)

    assert type(found) is outcome.Unauthorised
    assert found.answer.error == "token: HTTP 400 Bad Request: invalid_client"
    assert found.answer.seconds > 0


@pytest.mark.parametrize(
    ("reply", "kind", "asked"),
    [
        (Reply(401), outcome.Unauthorised, 1),
        (Reply(302, b"", {"location": INVOKE}), outcome.Misdirected, 1),
        (Reply(404), outcome.Misdirected, 1),
        (Reply(429, b"", {"retry-after": "9"}), outcome.Throttled, 1),
        (Reply(500), outcome.NotSent, 3),
        (Reply(200, b"<html>"), outcome.NotSent, 3),
        (Reply(200, b"[]"), outcome.NotSent, 3),
        (Reply(200, b"{}"), outcome.NotSent, 3),
        (Reply(200, b'{"access_token": "a"}' + b" " * 70_000), outcome.NotSent, 3),
        (token_reply(""), outcome.NotSent, 3),
        (token_reply(7), outcome.NotSent, 3),
        (token_reply("two\r\nlines"), outcome.NotSent, 3),
        (Reply(act=raw(b"")), outcome.NotSent, 3),
    ],
)
def test_no_token(server: Server, connect: Connect, reply: Reply, kind: type[Outcome], asked: int) -> None:
    """Without a token nothing is sent; what may pass by itself is tried three times, a refusal once."""
    server.tokens.extend([reply] * 3)
    api = connect()

    found = api.invoke(BODY)

    assert type(found) is kind
    assert found.answer.status is None
    assert found.answer.retry_after == (9.0 if kind is outcome.Throttled else None)
    assert [seen.path for seen in server.seen] == [TOKEN] * asked


def test_token_at_the_second_try(server: Server, connect: Connect) -> None:
    """A token endpoint that stumbles once does not fail the call."""
    server.tokens.append(Reply(503))

    assert type(connect().invoke(BODY)) is outcome.Accepted


def test_no_credentials(server: Server, connect: Connect) -> None:
    """Without credentials nothing is called; the error names the settings."""
    found = connect(client_secret="").invoke(BODY)

    assert type(found) is outcome.Unauthorised
    assert "VCC_CLIENT_SECRET" in (found.answer.error or "")
    assert not server.seen


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (7200, 7140),
        ("7200", 7140),
        (10, 5),
        (1e300, 86_340),
        (-1, 240),
        (0, 240),
        (None, 240),
        ("soon", 240),
        ("nan", 240),
    ],
)
def test_token_is_renewed_in_time(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch, expires_in: object, seconds: float
) -> None:
    """A token is used until a minute before its end, or half its life; nonsense counts as five minutes."""
    server.tokens.append(token_reply("first", expires_in=expires_in))
    api = connect()
    api.check()
    clock = time.monotonic

    for passed, asked in ((seconds - 3, 1), (seconds + 1, 2)):
        monkeypatch.setattr(auth.time, "monotonic", lambda passed=passed: clock() + passed)
        api.check()
        assert len(server.at(TOKEN)) == asked


def test_one_renewal_for_all_threads(server: Server, connect: Connect) -> None:
    """Of threads that need a token together one asks, and the others wait for its answer."""
    api = connect()
    gate = threading.Barrier(8)

    def call(_: int) -> Outcome:
        gate.wait(60)
        return api.invoke(BODY)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, range(8)))

    assert {type(each) for each in found} == {outcome.Accepted}
    assert len(server.at(TOKEN)) == 1


def test_waiting_for_a_renewal_is_bounded(server: Server, connect: Connect) -> None:
    """A thread that waits for another's renewal gives up when its own time is over."""
    entered = threading.Event()

    def hold(handler: Handler) -> None:
        entered.set()
        handler.server.stopping.wait(30)

    server.tokens.append(Reply(act=hold))
    tokens = connect(timeout=10.0)._tokens

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tokens.get, Deadline(20))
        assert entered.wait(60)
        with pytest.raises(auth.TokenUnreachable, match="waiting for another thread"):
            tokens.get(Deadline(0.05))
        tokens.invalidate("another")  # waits for nobody
        assert not waiting.done()
        server.stopping.set()
        assert waiting.result(60) == "token-1"


def test_invalidate_spares_a_newer_token(server: Server, connect: Connect) -> None:
    """A thread that comes late with an old token does not throw the new one away."""
    tokens = connect()._tokens
    old = tokens.get(Deadline(10))
    tokens.invalidate(old)
    new = tokens.get(Deadline(10))
    tokens.invalidate(old)

    assert (old, tokens.get(Deadline(10))) == ("token-1", new)
    assert len(server.at(TOKEN)) == 2


def test_check(server: Server, connect: Connect) -> None:
    """A check gets a token and calls nothing else."""
    assert type(connect().check()) is outcome.Accepted
    server.tokens.append(Reply(400))
    assert type(connect().check()) is outcome.Unauthorised
    assert not server.at(INVOKE)


# Secrets


def test_nothing_secret_is_told(server: Server, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """Neither secret nor token nor a customer's words get into logs, errors, reprs or kept answers."""
    caplog.set_level(logging.DEBUG)
    echo = b'{"message": "bad header Bearer t0ken", "error": "%s"}' % SECRET.encode()
    server.tokens.extend([token_reply("t0ken"), *[Reply(400, echo)] * 3])
    server.invokes.extend([Reply(400, echo.replace(SECRET.encode(), b"")), Reply(401)])
    api = connect()

    outcomes = [api.invoke(BODY), api.invoke(BODY), api.check()]
    with pytest.raises(auth.TokenRefused) as refused:
        api._tokens.get(Deadline(10))

    told = "".join(map(repr, [*outcomes, api, api._tokens, refused.value, caplog.text]))
    assert "bad header Bearer ***" in told
    for word in (SECRET, "t0ken", "Jane Doe", "hush"):
        assert word not in told


def test_no_environment(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy named in the environment is not used."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")

    assert type(connect().invoke(BODY)) is outcome.Accepted


def test_closed(server: Server, connect: Connect) -> None:
    """A closed API calls nothing any more."""
    api = connect()
    api.invoke(BODY)
    api.close()

    with pytest.raises(RuntimeError, match="closed"):
        api.invoke(BODY)
    assert len(server.at(INVOKE)) == 1
