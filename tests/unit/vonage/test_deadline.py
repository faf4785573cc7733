"""One deadline over everything that a call does on the network."""

import socket
import threading
import time
from collections.abc import Iterator

import httpcore
import httpx
import pytest

from worker.vonage.deadline import PIECE, Deadline, bind, resolve, within


@pytest.fixture
def backend() -> Iterator[httpcore.NetworkBackend]:
    """Hand out the backend that httpx then works with."""
    transport = bind(httpx.HTTPTransport(trust_env=False))
    yield transport._pool._network_backend
    transport.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen, and answer nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_httpx_uses_the_backend(listener: socket.socket) -> None:
    """The attribute that is replaced inside httpx is the one that it connects with."""
    transport = bind(httpx.HTTPTransport(trust_env=False))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    with (
        httpx.Client(transport=transport) as client,
        within(Deadline(-1)) as exchange,
        pytest.raises(httpx.ConnectTimeout, match="no time left before sending"),
    ):
        client.get(url)

    assert not exchange.begun


def test_rest_never_negative() -> None:
    """A deadline that has passed has nothing left, one that has not no more than it began with."""
    assert Deadline(-5).rest() == 0
    assert 0 < Deadline(5).rest() <= 5


def test_late_by_phase(backend: httpcore.NetworkBackend, listener: socket.socket) -> None:
    """Out of time before the first byte is a connect timeout, afterwards one of writing or reading."""
    with within(Deadline(5)):
        stream = backend.connect_tcp("127.0.0.1", listener.getsockname()[1])
    with within(Deadline(-1)), pytest.raises(httpcore.ConnectTimeout):
        stream.write(b"x")
    with within(Deadline(5)) as exchange:
        stream.write(b"x")
        exchange.deadline = Deadline(-1)
        with pytest.raises(httpcore.WriteTimeout):
            stream.write(b"x")
        with pytest.raises(httpcore.ReadTimeout):
            stream.read(1)
    stream.close()


def test_write_to_a_reader_that_stalls(backend: httpcore.NetworkBackend, listener: socket.socket) -> None:
    """A peer that does not read holds a large write up to the deadline and no longer."""
    started = time.monotonic()
    with within(Deadline(0.3)):
        stream = backend.connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=5)
        with pytest.raises(httpcore.WriteTimeout):
            stream.write(b"x" * (PIECE * 2000), timeout=60)
    stream.close()
    assert 0.2 < time.monotonic() - started < 30


def test_read_from_a_peer_that_is_silent(backend: httpcore.NetworkBackend, listener: socket.socket) -> None:
    """A peer that says nothing is listened to for what is left, whatever the read itself would allow."""
    started = time.monotonic()
    with within(Deadline(0.3)):
        stream = backend.connect_tcp("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(httpcore.ReadTimeout):
            stream.read(1, timeout=60)
    stream.close()
    assert time.monotonic() - started < 30


def test_every_address_is_tried(
    backend: httpcore.NetworkBackend, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first address of a name refuses, the next one is taken."""
    port = listener.getsockname()[1]
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: [
            found
            for address in (("127.0.0.2", "127.0.0.1") if host == "two.example" else (host,))
            for found in look_up(address, *rest, **more)
        ],
    )

    with within(Deadline(5)):
        stream = backend.connect_tcp("two.example", port)
    assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
    stream.close()


def test_name_without_address(backend: httpcore.NetworkBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for no address at all can't be connected to."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])

    with within(Deadline(5)), pytest.raises(httpcore.ConnectError, match="no address"):
        backend.connect_tcp("none.example", 443)


def test_impossible_name() -> None:
    """What can't be a name at all is a connect error."""
    with pytest.raises(httpcore.ConnectError):
        resolve("a" * 64 + ".example", 443, 20)


def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the resolver does not know is a connect error in the resolver's words."""

    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(httpcore.ConnectError, match="Name or service not known"):
        resolve("none.example", 443, 20)


def test_slow_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs holds the call no longer than it has left."""
    over = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        over.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    try:
        with pytest.raises(httpcore.ConnectTimeout, match="not looked up in time"):
            resolve("slow.example", 443, 0.05)
        assert time.monotonic() - started < 20
    finally:
        over.set()
