"""One total deadline over everything that a call does on the network.

httpx knows timeouts of single reads and writes only: a server that sends a byte now and then is waited
for without end. So its network backend is wrapped here, and every look-up, connect, handshake, write and
read gets no more than what the call has left.

Running out of time says what is certain about the call by its kind: before the first byte of the request
was written it is a ``ConnectTimeout``, after that a ``WriteTimeout`` or a ``ReadTimeout``.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

PIECE = 16 * 1024
"""Bytes written at once: a reader that takes them slowly is looked at again after each piece."""


class Deadline:
    """The moment by which a call has to be over, ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def rest(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())


@dataclass(slots=True)
class Exchange:
    """What the network layer knows about the one request that this thread is sending.

    Attributes:
        deadline: when it has to be over.
        begun: a byte of the request may have left.
        torn: the request was not written to its end. httpcore reads an early answer all the same, and an
            early 2xx to half a request accepts nothing.
    """

    deadline: Deadline
    begun: bool = False
    torn: bool = False

    def bound(self, own: float | None, late: type[Exception]) -> float:
        """Cut an operation's own timeout to what is left; raises ``late`` where nothing is."""
        rest = self.deadline.rest()
        if rest <= 0:
            raise (
                late("no time left, the call was under way")
                if self.begun
                else httpcore.ConnectTimeout("no time left before sending")
            )
        return rest if own is None else min(own, rest)


_current: ContextVar[Exchange] = ContextVar("exchange")


@contextmanager
def within(deadline: Deadline) -> Iterator[Exchange]:
    """Hold everything that this thread does on the network to ``deadline``, for one request."""
    exchange = Exchange(deadline)
    token = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(token)


def bind(transport: httpx.HTTPTransport) -> httpx.HTTPTransport:
    """Make a transport work inside ``within`` only, and keep to its deadline."""
    # httpx offers no public way to hand over a network backend, and to build its pool anew would repeat
    # all that it does with TLS; a test sees to it that a release which moves this is noticed.
    pool = transport._pool
    pool._network_backend = _Backend(pool._network_backend)
    return transport


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        exchange = _current.get()
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in resolve(host, port, exchange.bound(timeout, httpcore.ConnectTimeout)):
            bound = exchange.bound(timeout, httpcore.ConnectTimeout)
            try:
                return _Stream(self._inner.connect_tcp(address, port, bound, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _current.get().bound(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _current.get()
        for start in range(0, len(buffer), PIECE):
            bound = exchange.bound(timeout, httpcore.WriteTimeout)
            exchange.begun = True
            try:
                self._inner.write(buffer[start : start + PIECE], bound)
            except httpcore.WriteError:
                exchange.torn = True
                raise

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        bound = _current.get().bound(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, bound))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()


def resolve(host: str, port: int, timeout: float) -> list[str]:
    """Look up the addresses of ``host``, for ``timeout`` seconds at most.

    In a thread of its own, since getaddrinfo knows no timeout and may hang for a minute.

    Raises:
        httpcore.ConnectError: there is no such name.
        httpcore.ConnectTimeout: nobody answered in time.
    """
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, name="vcc-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise httpcore.ConnectTimeout("the name was not looked up in time") from None
    if isinstance(answer, Exception):
        raise httpcore.ConnectError(str(answer)) from None
    return answer
