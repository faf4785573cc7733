"""How a running import tells of itself to whoever looks: beside the import, which it neither slows nor fails."""

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.domain.job import printable
from worker.intake.importer import Tally
from worker.store import imports

EVERY = 2.0
"""Seconds between two reports."""

AT_MOST = 2.0
"""Seconds that the end of an import waits for its last report."""


class Report:
    """Reports by a thread of its own, each in a transaction of its own; one that can't be written is dropped.

    Killed with the import, nothing says how it ended: whoever looks sees that it is silent.

    Attributes:
        outcome: how it will have ended, if nothing is raised.
    """

    def __init__(
        self,
        engine: Engine,
        who: str,
        source: str,
        route: str | None,
        tally: Tally,
        share: Callable[[], float],
    ) -> None:
        self.outcome = "done"
        self._engine, self._tally, self._share = engine, tally, share
        self._told = (who, printable(source), route)
        self._id: int | None = None
        self._over = Event()
        self._thread = Thread(target=self._run, name="report", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.outcome = "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._over.set()
        self._thread.join(AT_MOST)

    def _run(self) -> None:
        self._tell(last=False)
        while not self._over.wait(EVERY):
            self._tell(last=False)
        self._tell(last=True)

    def _tell(self, *, last: bool) -> None:
        tally = self._tally
        counts = (tally.read, tally.new, tally.duplicate, tally.rejected)
        with suppress(SQLAlchemyError):
            with self._engine.begin() as conn:
                conn.exec_driver_sql("set local statement_timeout = '2s'")
                identity = self._id or imports.begin(conn, *self._told)
                imports.report(conn, identity, min(self._share(), 1.0), *counts)
                if last:
                    imports.end(conn, identity, self.outcome)
            self._id = identity
