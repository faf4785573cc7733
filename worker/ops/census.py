"""The last census, kept for whoever looks: counted by a thread of its own, and only while somebody looks."""

from threading import Event, Lock, Thread
from time import monotonic

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.logs import get_logger
from worker.store import census
from worker.store.census import Counts
from worker.store.database import told

log = get_logger(__name__)

LEAST, SHARE, MOST = 2.0, 20, 900.0
"""Seconds between two counts at least; so many times what one takes, a twentieth of the time; and at most."""

AGAIN = 30.0
"""Seconds after a count that failed, and no less than that took."""

FIRST, QUICK = 1.0, 0.2
"""Seconds that whoever asks waits: for the very first count; for a new one where the last one took no longer."""


class Census:
    """Counts that are as new as they can be without being a burden."""

    def __init__(self, engine: Engine, leak_after: float) -> None:
        self._engine, self._leak_after = engine, leak_after
        self._lock, self._counted = Lock(), Event()
        self._counts: Counts | None = None
        self._running, self._next = False, 0.0

    def counts(self) -> Counts | None:
        """Give the last counts, and have new ones made where they are old; None: there are none yet.

        It waits the first time, or where counting is a matter of moments, and not for long. Where the database can't
        be asked, the last counts stay: they tell when they were made.
        """
        self._begin()
        if self._counts is None:
            self._counted.wait(FIRST)
        elif self._counts.seconds < QUICK:
            self._counted.wait(QUICK)
        return self._counts

    def _begin(self) -> None:
        with self._lock:
            if self._running or monotonic() < self._next:
                return
            self._running = True
            self._counted.clear()
        try:
            Thread(target=self._count, name="census", daemon=True).start()
        except RuntimeError:  # there are too many
            self._end(AGAIN)

    def _count(self) -> None:
        started, failed = monotonic(), True
        try:
            with self._engine.begin() as conn:
                self._counts = census.take(conn, self._leak_after)
            failed = False
        except SQLAlchemyError as error:
            log.warning("census failed", reason=told(error))
        finally:
            took = monotonic() - started
            self._end(max(AGAIN, took) if failed else max(LEAST, took, min(SHARE * took, MOST)))

    def _end(self, pause: float) -> None:
        with self._lock:
            self._next = monotonic() + pause
            self._running = False
        self._counted.set()
