"""This project: ``vcc worker`` as it comes."""

import subprocess
from functools import cached_property

from benchmarks.contenders.contender import Contender
from benchmarks.jobs import Job, until
from benchmarks.stand import THREADS
from worker.client import Client
from worker.intake.record import Incoming, take_in


class Ours(Contender):
    """Its jobs come by the stream, or stand in the table, recorded."""

    name = "this project"
    size = f"threads {THREADS}"

    @cached_property
    def client(self) -> Client:
        """The client of an upstream service."""
        return Client(self.stand.settings.redis())

    def clean(self) -> None:
        """Empty the tables and the stream."""
        self.stand.clean()

    def start(self, size: str | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start ``vcc worker``; a size reads ``threads 6``."""
        pool, count = (size or self.size).split()
        return self.stand.worker("--pool", pool, "--concurrency", count, **env)

    def enqueue(self, job: Job) -> object:
        """Put a job into the stream."""
        return self.client.dispatch(**job)

    def fill(self, some: list[Job]) -> None:
        """Record the jobs while the valve is closed."""
        self.stand.pause()
        batch = [Incoming(job, f"r-{job['externalid']:0>34}") for job in some]
        for first in range(0, len(batch), 1000):
            take_in(self.stand.engine, self.stand.settings, "bench", batch[first : first + 1000])

    def fill_many(self, count: int) -> None:
        """Record so many while the valve is closed, quickly."""
        self.stand.pause()
        self.stand.fill(count, self.prefix())

    def let_go(self) -> None:
        """Open the valve."""
        self.stand.resume()

    def recorded(self) -> int:
        """Count the answers."""
        return self.stand.count("dispatched")

    def settled(self, total: int) -> bool:  # noqa: ARG002 - the calls tell it
        """Whether no call is under way any more: of some hundred, instead of a hundred thousand interactions."""
        with self.stand.engine.connect() as conn:
            return not conn.exec_driver_sql(
                "select exists (select from invocations where outcome is null)"
            ).scalar_one()

    def warm(self, count: int = 5000) -> None:
        """Make a few calls from every thread."""
        self.fill_many(count)
        self.let_go()
        total = self.stand.count()
        until(lambda: self.recorded() == total)
