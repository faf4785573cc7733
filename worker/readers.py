"""A worker's readers: threads beside its pool that read the stream and the inbox, and send straight on.

They run in the worker's main process, whatever its pool, if it consumes the queue ``intake``. Each waits at its door
itself (on Redis, on Postgres's notification), so that a raw ``XADD`` or ``INSERT`` is picked up at once.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import count
from random import uniform
from typing import Any

from celery import bootsteps, signals

from worker import app as process
from worker.app import app
from worker.consumption import note
from worker.delivery.deliver import Bench
from worker.delivery.straight import Senders
from worker.intake.reader import SEATS, Onward, Reader
from worker.logs import get_logger
from worker.settings import SettingsError
from worker.store.database import told
from worker.tasks import reader, wake

log = get_logger(__name__)

AGAIN = 1.0
"""Seconds until a reader asks again for a door's seat: what jobs wait when its holder has died."""


class Pair:
    """A door's reader and the senders beside it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._senders: Senders | None = None
        self._thread = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        failures = 0
        found: Reader | None = None
        while _go_on():
            try:
                found = found or self._made()
                found.run(_rounds(self._name), waits=True)
                failures = 0
            except Exception as error:  # whatever it was may be gone by the next try, and somebody has to try
                failures += 1
                reason = str(error) if isinstance(error, SettingsError) else told(error)
                log.warning("reader failed", door=self._name, reason=reason)
            process.stopping.wait(AGAIN * uniform(1, 1 + min(failures, 4)))  # noqa: S311 -- not all at once

    def _made(self) -> Reader:
        bench = Bench(process.engine(), process.api(), process.config(), wake, process.stopping)
        self._senders = Senders(bench, _go_on, f"send-{self._name}")
        return reader(self._name, Onward(self._senders.terms, self._senders.offer))

    def join(self, **_: Any) -> None:
        """Wait for the batch and the calls that are under way."""
        self._thread.join()
        if self._senders is not None:
            self._senders.close()


def _go_on() -> bool:
    return not process.stopping.is_set()


def _rounds(name: str) -> Callable[[], bool]:
    """Go on until the stop, and note the door's consumption; not at first, for then nothing was looked at yet."""
    rounds = count()

    def go_on() -> bool:
        if next(rounds):
            note(name)
        return _go_on()

    return go_on


class Readers(bootsteps.StartStopStep):
    """The worker's step that starts them after its pool (so never before a fork); they stop with the worker."""

    requires = ("celery.worker.components:Pool",)
    pairs: Sequence[Pair] = ()

    def include_if(self, worker: Any) -> bool:
        """Only where the worker takes jobs in at all."""
        return "intake" in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Start a pair for each door."""
        self.pairs = [Pair(name) for name in SEATS]
        for pair in self.pairs:  # at the very end: the pool need not wait for them
            signals.worker_shutdown.connect(pair.join, weak=False)


app.steps["worker"].add(Readers)
