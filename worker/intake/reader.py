"""Read a door: the stream or the inbox, one active reader each, in order, in large batches.

Killed at any line: before the record's commit the batch is still where it was, and the next reader takes it up first;
after it the batch is taken in once more and recognised by its requestids.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, Engine

from worker.domain.meeting import Verdict
from worker.intake.record import Incoming, Taken, take_in
from worker.logs import get_logger
from worker.settings import Settings
from worker.store.claim import Claim, Terms
from worker.store.seat import SILENCE, Seat

log = get_logger(__name__)

BATCH = 1000
FEW = 20
"""Jobs up to which a batch counts as small."""

BUDGET = 4_000_000
"""Bytes of jobs past which a batch is large enough."""

BLOCK = 1.0
"""Seconds that a reader waits before it looks whether it is to stop."""

SEATS = {"stream": 1, "inbox": 2}


class Door(Protocol):
    """Where jobs wait to be taken in."""

    name: str

    def open(self) -> None:
        """Get ready, now that nobody else reads."""

    def read(self, limit: int, budget: int) -> list[Incoming]:
        """Return the next jobs, those first that an earlier reader has left."""

    def done(self, batch: Sequence[Incoming]) -> None:
        """Forget jobs that are recorded, or kept among the rejections."""

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to read; False where nothing came in the time."""


@dataclass(frozen=True, slots=True)
class Onward:
    """What happens to what was just recorded.

    Attributes:
        terms: asked before a few jobs are recorded: on which terms they may be claimed with it, if they may.
        go: called after the commit where something is due, with the claim if there is one.
    """

    terms: Callable[[], Terms | None]
    go: Callable[[Claim | None], None]


class Reader:
    """Reads one door while it has the door's seat.

    Args:
        engine: the database.
        settings: as for ``take_in``.
        name: the door's.
        open_door: makes the door for the connection that has the seat.
        onward: where recorded jobs go.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        name: str,
        open_door: Callable[[Connection], Door],
        onward: Onward,
    ) -> None:
        self.name = name
        self._settings = settings
        self._open = open_door
        self._onward = onward
        self._seat = Seat(engine, SEATS[name])

    def run(self, go_on: Callable[[], bool], *, waits: bool) -> bool:
        """Take jobs in, if the seat is free; whether it was.

        Args:
            go_on: asked before each batch.
            waits: stay when there is nothing left to read, and wait for more.
        """
        conn = self._seat.take()
        if conn is None:
            return False
        try:
            door = self._open(conn)
            door.open()
            while go_on():
                if self._batch(conn, door):
                    continue
                if not waits:
                    break
                self._wait(door, go_on)
        finally:
            self._seat.leave()
        return True

    def _wait(self, door: Door, go_on: Callable[[], bool]) -> None:
        """Wait for jobs, and not so long that Postgres would give up on the seat's holder."""
        end = time.monotonic() + SILENCE / 3
        while go_on() and not door.wait(BLOCK):
            if time.monotonic() > end:
                self._seat.hold()
                return

    def _batch(self, conn: Connection, door: Door) -> bool:
        batch = door.read(BATCH, BUDGET)
        if not batch:
            return False
        few = len(batch) <= FEW
        self._seat.prepare(few)
        terms = self._onward.terms() if few else None
        taken = take_in(conn, self._settings, self.name, batch, terms=terms)
        if taken.due:
            self._onward.go(taken.claim)  # before the acknowledgement, which it need not wait for
        door.done(batch)
        self._tell(taken, len(batch))
        return True

    def _tell(self, taken: Taken, size: int) -> None:
        if rejected := taken.verdicts[Verdict.REJECTED]:
            log.warning("jobs rejected", door=self.name, rejected=rejected, jobs=size)
