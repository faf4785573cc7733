"""The Celery door by name, one job a message, from the queue to the recorded answer; against textbook Celery."""

import subprocess
from collections.abc import Iterator
from functools import cached_property

from celery import Celery

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.textbook import Textbook
from benchmarks.figures import Figure, median
from benchmarks.jobs import Job
from benchmarks.measures.drain import drain
from benchmarks.stand import Stand, say

COUNT, QUICK = 8_000, 200


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Have both work off as many messages that wait in their queue, so that no producer takes part of the machine."""
    count = QUICK if quick else COUNT
    contenders = [ByName(stand), Textbook(stand)]
    rates: dict[str, list[float]] = {}
    for turn in range(rounds):
        for contender in contenders:
            rate = drain(stand, contender, count)
            rates.setdefault(contender.name, []).append(rate)
            say(f"{contender.name}: {rate:,.0f} jobs/s (round {turn + 1} of {rounds})")
    mine, theirs = (median(rates[contender.name]) for contender in contenders)
    for contender in contenders:
        what = (
            f"{contender.name}, {contender.size}: {count:,} messages, from the queue to the recorded answer"
        )
        yield Figure(what, median(rates[contender.name]), "jobs/s")
    yield Figure("Celery door by name, against textbook Celery", mine / theirs, "×", 1.5)


class ByName(Contender):
    """This project, its tasks sent by their names."""

    name = "vcc.dispatch by name"
    size = Ours.size

    def __init__(self, stand: Stand) -> None:
        super().__init__(stand)
        self._ours = Ours(stand)

    @cached_property
    def app(self) -> Celery:
        """The Celery app of another service: it knows the tasks' names only."""
        return Celery("service", broker=self.stand.settings.redis())

    def clean(self) -> None:
        """Empty tables and queues."""
        self._ours.clean()

    def start(self, size: str | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start ``vcc worker``."""
        return self._ours.start(size, **env)

    def enqueue(self, job: Job) -> object:
        """Send one message."""
        return self._send(job, "intake")

    def fill(self, some: list[Job]) -> None:
        """Send messages to a list that nobody reads."""
        for job in some:
            self._send(job, "held")

    def let_go(self) -> None:
        """Give the list the name of the queue."""
        self.stand.redis.rename("held", "intake")

    def recorded(self) -> int:
        """Count the answers."""
        return self._ours.recorded()

    def _send(self, job: Job, queue: str) -> object:
        return self.app.send_task("vcc.dispatch", kwargs=job, queue=queue, argsrepr="", kwargsrepr="")
