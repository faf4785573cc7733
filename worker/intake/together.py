"""Jobs that wait at the same time, in one transaction: one of the threads that wait records them for all.

Killed before the commit: none of them is recorded, and each message comes again. After it: all of them are.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from worker.domain.meeting import Verdict
from worker.intake.record import Incoming, Taken
from worker.store.record import CrowdedError

MANY = 1000
"""Jobs past which a transaction is large enough."""


@dataclass(slots=True)
class _Waiting:
    batch: Sequence[Incoming]
    verdicts: Sequence[Verdict] | None = None
    error: Exception | None = None
    alone: bool = False  # it was tried with others: if nothing came of it, by itself

    @property
    def open(self) -> bool:
        return self.verdicts is None and self.error is None


class Together:
    """Records batches of several threads; each waits until its own is recorded.

    Args:
        take_in: records jobs, and says what each came to.
    """

    def __init__(self, take_in: Callable[[Sequence[Incoming]], Taken]) -> None:
        self._take_in = take_in
        self._lead = threading.Lock()
        self._queue: list[_Waiting] = []
        self._adding = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many batches nobody has begun to record."""
        return len(self._queue)

    def take_in(self, batch: Sequence[Incoming]) -> Sequence[Verdict]:
        """Record a batch, with those of others that wait; what each of its jobs came to."""
        mine = _Waiting(batch)
        with self._adding:
            self._queue.append(mine)
        while mine.open:
            with self._lead:
                if mine.open:
                    self._record(mine)
        if mine.error is not None:
            raise mine.error
        return mine.verdicts or ()

    def _record(self, mine: _Waiting) -> None:
        """Record what waits, for all. What no rule foresaw is perhaps the matter of one: then each by itself."""
        group = [mine] if mine.alone else self._next()
        for one in group:
            one.alone = True
        try:
            taken = self._take_in([job for one in group for job in one.batch])
        except (SQLAlchemyError, CrowdedError) as error:
            _fail(group, error)
        except Exception as error:
            if len(group) == 1:
                _fail(group, error)
        else:
            verdicts = iter([verdict for verdict, _ in taken.details])
            for one in group:
                one.verdicts = [next(verdicts) for _ in one.batch]

    def _next(self) -> list[_Waiting]:
        with self._adding:
            size, group = 0, list[_Waiting]()
            while self._queue and (not group or size + len(self._queue[0].batch) <= MANY):
                group.append(self._queue.pop(0))
                size += len(group[-1].batch)
        return group


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for one in group:
        one.error = error
