"""Run a command that ends when its parent does, also after ``kill -9`` of the parent.

``spawn`` is the parent's side. Between the parent and the command stands the guard, which is this same
file run by its path (so it may import the standard library only)::

    parent ──(pipe on stdin)──► guard ──► command, in a session of its own

The guard stops the command when the pipe closes, which the kernel does however the parent ends, or when
it is told to. If the guard itself is killed, Linux kills the command (``PR_SET_PDEATHSIG``); elsewhere
that one case is not covered. On Linux the guard also adopts what the command leaves behind.
"""

import contextlib
import ctypes
import json
import os
import pwd
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

PYTHON = (sys.executable, "-I", "-S")
"""How the guard is run: without ``site``, so that it starts fast and nothing in the environment hooks in."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_LAST_GRACE = 6.0  # seconds; PostgreSQL's immediate shutdown gives its own children 5


@dataclass(frozen=True)
class _Order:
    """What the parent asks of the guard, sent as JSON in its first argument."""

    parent: int
    report: int
    keep: tuple[int, ...]
    user: str | None
    stop_signal: int
    last_signal: int
    grace: float


class Guarded:
    """A command under guard, as its parent sees it.

    Attributes:
        pid: the command's own process id, which is its group's and session's too.
        guard_pid: the process id of the guard.
    """

    def __init__(self, guard: subprocess.Popen[bytes], pid: int, grace: float) -> None:
        self.pid = pid
        self.guard_pid = guard.pid
        self._guard = guard
        self._grace = grace

    def poll(self) -> int | None:
        """Return the exit status (128 + n after signal n), or None while the command runs."""
        return self._ended() if self._guard.poll() is not None else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, ``timeout`` seconds at most (subprocess.TimeoutExpired); return the status."""
        self._guard.wait(timeout)
        return self._ended()

    def stop(self, timeout: float | None = None) -> int:
        """Stop the command, by force where it does not follow, and return the exit status.

        Args:
            timeout: seconds until the guard itself is killed and the command with it; as a rule the
                grace and what the guard needs to enforce it.
        """
        self._guard.terminate()
        try:
            return self.wait(self._grace + 3 * _LAST_GRACE if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            self._signal_group(signal.SIGKILL)
            self._guard.kill()
            return self.wait()

    def kill(self) -> int:
        """End the command and all that it started as a crash would, and return the exit status."""
        self._signal_group(signal.SIGKILL)
        return self.wait()

    def _signal_group(self, number: int) -> None:
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _ended(self) -> int:
        self._guard.communicate()  # closes the pipe
        return _status(self._guard.returncode)


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[bytes] | int | None = None,
    stop_signal: int = signal.SIGTERM,
    last_signal: int = signal.SIGKILL,
    grace: float = 10.0,
    user: str | None = None,
    keep: Sequence[int] = (),
) -> Guarded:
    """Start a command that ends with this process.

    Args:
        command: program and arguments.
        env: the command's whole environment; this process's where none is given.
        cwd: the folder that it runs in.
        stdout: where its output and its errors go; this process's own where none is given.
        stop_signal: asks it to end.
        last_signal: makes it end, ``grace`` seconds later, and when the guard is killed.
        grace: seconds between the two.
        user: run it as this user (for root only).
        keep: file descriptors that the guard and the command inherit.

    Raises:
        OSError: the command could not be started.
    """
    reading, report = os.pipe()
    order = _Order(os.getpid(), report, tuple(keep), user, int(stop_signal), int(last_signal), grace)
    here = str(Path(__file__).resolve())
    with os.fdopen(reading, "rb") as answer:
        try:
            guard = subprocess.Popen(  # noqa: S603 - runs what it is asked to run
                [*PYTHON, here, json.dumps(asdict(order)), *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=None if stdout is None else subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
                pass_fds=(report, *keep),
            )
        finally:
            os.close(report)
        words = answer.read().decode()
    return Guarded(guard, _pid(words, guard), grace)


def descendants(pid: int) -> list[int]:
    """List the processes below ``pid``, parents first; empty where there is no ``/proc``."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _pid(words: str, guard: subprocess.Popen[bytes]) -> int:
    if words.isdecimal():
        return int(words)
    guard.communicate()
    raise OSError(words or f"the guard ended with status {guard.returncode} before the command started")


def main(argv: Sequence[str]) -> int:
    """Be the guard: run the command given in ``argv`` and return its exit status."""
    asked = json.loads(argv[1])
    order = _Order(**asked)
    signals = _listen()
    prctl = _prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        command = _start(order, argv[2:], prctl)
    except (OSError, LookupError) as error:
        _tell(order.report, f"{argv[2]} could not be started: {error}")
        return 127
    _tell(order.report, str(command.pid))
    return _status(_watch(command.pid, order, signals))


def _listen() -> int:
    """Turn signals into bytes on a pipe, and return its reading end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, *_STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    return reading


def _prctl() -> Callable[[int, int], object]:
    if sys.platform != "linux":  # pragma: no cover
        return lambda _option, _value: None
    libc = ctypes.CDLL(None)
    return lambda option, value: libc.prctl(option, value, 0, 0, 0)


def _start(
    order: _Order, command: Sequence[str], prctl: Callable[[int, int], object]
) -> subprocess.Popen[bytes]:
    guard = os.getpid()

    def end_with_the_guard() -> (
        None
    ):  # pragma: no cover - runs where nothing can be measured, before the exec
        prctl(_PR_SET_PDEATHSIG, order.last_signal)
        if os.getppid() != guard:  # it died before the line above could tie us to it
            os.kill(os.getpid(), signal.SIGKILL)

    return subprocess.Popen(  # noqa: S603 - runs what the parent asked for
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_the_guard,  # noqa: PLW1509 - the guard has one thread
        pass_fds=order.keep,
        user=order.user,
        group=pwd.getpwnam(order.user).pw_gid if order.user else None,
        extra_groups=[] if order.user else None,
    )


def _tell(report: int, words: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(report, words.encode())
    os.close(report)


def _watch(command: int, order: _Order, signals: int) -> int:
    status = _until_asked_to_stop(command, order.parent, signals)
    steps = (
        (order.stop_signal, order.grace),
        (order.last_signal, _LAST_GRACE),
        (signal.SIGKILL, _LAST_GRACE),
    )
    for number, patience in steps:
        if status is None:
            _signal(command, signal.SIGCONT)
            _signal(command, number)
            status = _within(patience, command, signals)
    _clear_away(command, signals)
    return -signal.SIGKILL if status is None else status


def _until_asked_to_stop(command: int, parent: int, signals: int) -> int | None:
    """Return the command's status when it ended, or None when the guard is to stop it."""
    asked = False
    while (status := _reap(command)) is None and not asked:
        # The timeout is for a parent that forked: its forks hold the pipe open after it.
        ready, _, _ = select.select([0, signals], [], [], 1.0)
        asked = (
            (0 in ready and not os.read(0, 512))
            or (signals in ready and not _STOP_SIGNALS.isdisjoint(os.read(signals, 512)))
            or os.getppid() != parent
        )
    return status


def _within(patience: float, command: int, signals: int) -> int | None:
    """Return the command's status, or None when it is still running after ``patience`` seconds."""
    end = time.monotonic() + patience
    while (status := _reap(command)) is None and (left := end - time.monotonic()) > 0:
        if select.select([signals], [], [], left)[0]:
            os.read(signals, 512)
    return status


def _reap(command: int) -> int | None:
    """Reap whatever has ended; return the command's status if it was among it."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _clear_away(command: int, signals: int) -> None:
    """Kill what the command left: its group, and on Linux also what has left its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command, signal.SIGKILL)
    end = time.monotonic() + _LAST_GRACE
    while (left := descendants(os.getpid())) and time.monotonic() < end:
        for pid in left:
            _signal(pid, signal.SIGKILL)
        select.select([signals], [], [], 0.02)
        _reap(command)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
