"""What a measure asks of a contender."""

import subprocess
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from benchmarks.jobs import Job, jobs, until

if TYPE_CHECKING:
    from benchmarks.stand import Stand


class Contender(ABC):
    """A design that does the job.

    Attributes:
        name: for the tables.
        size: its pool's, the best that was found here.
    """

    name: ClassVar[str]
    size: ClassVar[str]

    def __init__(self, stand: "Stand") -> None:
        self.stand = stand
        self._series = 0

    @abstractmethod
    def clean(self) -> None:
        """Forget all jobs and all results."""

    @abstractmethod
    def start(self, size: str | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start its workers, with another pool size than its best if one is given."""

    @abstractmethod
    def enqueue(self, job: Job) -> object:
        """Enqueue one job, as a service would."""

    @abstractmethod
    def fill(self, some: list[Job]) -> None:
        """Put jobs in, ready to be worked on, out of the workers' sight."""

    @abstractmethod
    def let_go(self) -> None:
        """Show the workers what was put in."""

    @abstractmethod
    def recorded(self) -> int:
        """How many answers are recorded."""

    def settled(self, total: int) -> bool:
        """Whether all answers are recorded, asked when the API has seen all; cheap, for it is asked often."""
        return self.recorded() >= total

    def prefix(self) -> str:
        """Begin a new series of externalids."""
        self._series += 1
        return f"{self.name[0]}{self._series:03}-"

    def warm(self, count: int = 200) -> None:
        """Do some jobs, so that every process has its connections and caches."""
        done = self.recorded()
        for job in jobs(count, self.prefix()):
            self.enqueue(job)
        until(lambda: self.recorded() == done + count)
