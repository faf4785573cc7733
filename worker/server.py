"""A server program on a free port of 127.0.0.1, under guard: start, ready, stop, and faults for tests."""

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker import guard

PATIENCE = 30.0
"""Seconds that a server has to become ready, and that one which is still stopping may keep its data."""

_ATTEMPTS = 5
_IN_USE = b"Address already in use"
_TAIL = 2_000  # bytes of its log that an error shows


class EmbeddedError(Exception):
    """An embedded server can't run; the message says why and what to do."""


@dataclass(frozen=True)
class Program:
    """What there is to know about a server before it runs.

    Attributes:
        name: what people call it.
        command: makes the command line from a port.
        url: where it will be found, with ``{port}``.
        answers: tells whether the server at a URL is ready; prepares it where it must be.
        folder: its data, and where it runs.
        log: takes its output.
        lock: an open file that it inherits, so that the lock lasts as long as any process of it.
        stop_signal: asks it to shut down in good order.
        last_signal: makes it end.
        user: as whom it runs; None: as we do.
        remedy: what to do where it will not start.
    """

    name: str
    command: Callable[[int], Sequence[str | Path]]
    url: str
    answers: Callable[[str], bool]
    folder: Path
    log: Path
    lock: int
    stop_signal: signal.Signals
    last_signal: signal.Signals
    user: str | None
    remedy: str


class Server:
    """A running server.

    Attributes:
        url: where it listens, with its password.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._port, self._guarded = _start_on_free_port(program)
        self.url = program.url.format(port=self._port)

    @property
    def pid(self) -> int:
        """The server's own process id."""
        return self._guarded.pid

    def poll(self) -> int | None:
        """Return the server's exit status, or None while it runs."""
        return self._guarded.poll()

    def stop(self) -> None:
        """Shut down in good order and wait for it."""
        self.thaw()
        self._guarded.stop()

    def kill(self) -> None:
        """End all of the server's processes at once with SIGKILL, as a crash would."""
        self._guarded.kill()

    def restart(self) -> None:
        """Stop it where it still runs; start it with the same data on the same port.

        Raises:
            EmbeddedError: it did not become ready.
        """
        self.stop()
        self._guarded = _start(self._program, self._port)

    def freeze(self) -> None:
        """Halt it without closing its connections, as a machine that hangs would (Linux)."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        if self.poll() is None:
            for pid in (self.pid, *guard.descendants(self.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


@contextlib.contextmanager
def running(program: Program) -> Iterator[Server]:
    """Start a server, and stop it at the end.

    Raises:
        EmbeddedError: it did not become ready.
    """
    server = Server(program)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock, and give the open file that holds it.

    Raises:
        EmbeddedError: another process has it; the message names its pid.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(lock, path)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode()
        if _alive(owner) or time.monotonic() > end:
            raise EmbeddedError(
                f"{path.stem} in {path.parent} is in use by process {owner}: stop that one first"
            )
        time.sleep(0.05)  # its owner is gone, the server on its way out


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class _PortTakenError(EmbeddedError):
    pass


def _start_on_free_port(program: Program) -> tuple[int, guard.Guarded]:
    failed = 0
    while True:
        port = free_port()
        try:
            return port, _start(program, port)
        except _PortTakenError:
            failed += 1
            if failed == _ATTEMPTS:
                raise


def free_port() -> int:
    """Find a port below those that the system gives to clients.

    One of those, and a client that calls again and again while the server restarts would in time be
    connected to itself, and keep the server from its port.
    """
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _start(program: Program, port: int) -> guard.Guarded:
    with program.log.open("ab") as log:
        begin = log.tell()
        guarded = guard.spawn(
            program.command(port),
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            cwd=program.folder,
            stdout=log,
            stop_signal=program.stop_signal,
            last_signal=program.last_signal,
            user=program.user,
            keep=(program.lock,),
        )
    try:
        _await(program, program.url.format(port=port), guarded, begin)
    except BaseException:
        guarded.stop()
        raise
    return guarded


def _await(program: Program, url: str, guarded: guard.Guarded, begin: int) -> None:
    end = time.monotonic() + PATIENCE
    while not program.answers(url):
        status = guarded.poll()
        if status is not None or time.monotonic() > end:
            said = tail(program.log, begin)
            error = _PortTakenError if _IN_USE in said else EmbeddedError
            why = "is not ready yet" if status is None else f"ended with status {status}"
            raise error(f"{program.name} {why}: {program.remedy}. The end of {program.log}:\n{said.decode()}")
        time.sleep(0.02)


def tail(log: Path, begin: int = 0) -> bytes:
    """Read the end of what was written to a log since the byte ``begin``."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - _TAIL))
        return file.read()
