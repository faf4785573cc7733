"""How a worker ends: what is not sent is given back at once, a call that is under way is finished and settled.

The order goes through a pipe that nobody reads: once written to, it can be read for ever, by every thread of the
worker and of the processes forked from it. (An ``Event`` is one process's alone, and its lock is nothing for a signal's
handler.) What hangs all the same, since Postgres or Redis says nothing, is left behind, as a crash would leave it.
"""

import atexit
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.logs import get_logger

log = get_logger(__name__)

GRACE = 1.0
"""Seconds that a process has after the order, or after its last call's answer, to settle and to give back."""

FAREWELL = 0.9
"""Seconds that the main process has more, once the others are gone, to take leave of Celery's broker."""

_TICK = 0.02


class Stopping:
    """The order to stop, and what it has to wait for."""

    def __init__(self) -> None:
        self._seen, self._order = os.pipe()
        self._empty, self._held = os.pipe()  # held by all of the family: hangs up when the last one has ended
        self._calls: set[int] = set()
        self._answered = 0.0
        self._status = 0
        self._enforced = False
        atexit.register(self._leave)

    def set(self, status: int = 0) -> None:
        """Order it, to exit with ``status``. No lock is taken, so that a signal's handler may call it."""
        self._status = status
        if not self.is_set():
            os.write(self._order, b"!")

    def is_set(self) -> bool:
        """Whether it is ordered."""
        return self.wait(0)

    def wait(self, seconds: float | None) -> bool:
        """Sleep until it is ordered, so many seconds at most; whether it is."""
        return _readable(self._seen, seconds)

    def fileno(self) -> int:
        """Give what becomes readable with the order, for an event loop."""
        return self._seen

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Make a call that the stop waits for."""
        thread = threading.get_ident()
        self._calls.add(thread)
        try:
            yield
        finally:
            self._answered = time.monotonic()
            self._calls.discard(thread)

    def enforce(self, *, forked: bool) -> None:
        """From now on, end this process when it has been ordered to stop and does not by itself."""
        if forked:
            self._calls.clear()  # those are the parent's
        self._enforced = True
        threading.Thread(target=self._enforce, args=[forked], name="stopping", daemon=True).start()

    def _enforce(self, forked: bool) -> None:
        self.wait(None)
        ordered = time.monotonic()
        while self._calls or time.monotonic() < max(ordered, self._answered) + GRACE:
            time.sleep(_TICK)
        if not forked:
            os.close(self._held)
            _readable(self._empty, None)
            time.sleep(FAREWELL)
        log.warning("left behind")
        os._exit(self._status)

    def _leave(self) -> None:
        """Spare a worker that has ended Python's own clearing up, which on a busy machine was seen to take 2 s."""
        if self._enforced and self.is_set():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._status)


NEVER = Stopping()
"""For what is not part of a worker."""


def _readable(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
