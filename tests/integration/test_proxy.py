"""The network that can be cut: what tests of outages stand on."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that says back what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=[server], daemon=True).start()
        yield f"tcp://user:word@127.0.0.1:{server.getsockname()[1]}/0"
        server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket) -> None:
    while True:
        try:
            conn, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=[conn], daemon=True).start()


def _echo(conn: socket.socket) -> None:
    with conn:
        try:
            while heard := conn.recv(1000):
                conn.sendall(heard)
        except OSError:
            pass


@pytest.fixture
def proxy(echo: str) -> Iterator[Proxy]:
    """A network to that server."""
    with Proxy(echo) as proxy:
        yield proxy


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":", 1)[1].split("/")[0])), timeout=60)


def _asked(conn: socket.socket) -> bytes:
    conn.sendall(b"hello")
    return conn.recv(1000)


def test_it_passes_on(proxy: Proxy) -> None:
    """What goes in comes out, and the URL differs in nothing but its port."""
    with _connect(proxy) as conn:
        assert _asked(conn) == b"hello"
    assert proxy.url.startswith("tcp://user:word@127.0.0.1:")
    assert proxy.url.endswith("/0")


def test_it_is_cut(proxy: Proxy) -> None:
    """Open connections break, new ones at once, until it is mended."""
    with _connect(proxy) as conn:
        assert _asked(conn) == b"hello"
        proxy.cut()
        assert _broken(conn)
    with _connect(proxy) as conn:
        assert _broken(conn)
    proxy.mend()
    with _connect(proxy) as conn:
        assert _asked(conn) == b"hello"


def _broken(conn: socket.socket) -> bool:
    try:
        return _asked(conn) == b""
    except ConnectionError:
        return True


def test_it_is_slow(proxy: Proxy) -> None:
    """Each way takes the time."""
    proxy.delay(0.1)
    with _connect(proxy) as conn:
        start = time.monotonic()
        assert _asked(conn) == b"hello"
        assert time.monotonic() - start >= 0.2


def test_it_is_half_open(proxy: Proxy) -> None:
    """Nothing comes and nothing breaks; after it is mended new connections work, the old one only ends if told."""
    with _connect(proxy) as old:
        assert _asked(old) == b"hello"
        proxy.half_open()
        old.settimeout(0.2)
        with pytest.raises(TimeoutError):
            _asked(old)
        proxy.mend()
        with _connect(proxy) as new:
            assert _asked(new) == b"hello"
        with pytest.raises(TimeoutError):
            _asked(old)
        proxy.mend(ending=True)
        assert _broken(old)
