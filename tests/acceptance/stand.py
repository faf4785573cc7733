"""The whole machinery as it runs in earnest: real servers, real workers, the API's stand-in over HTTP."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import Engine

from tests.acceptance import forked
from tests.factories import opened
from tests.waiting import until
from worker.store import queries
from worker.store.database import connect

ROOT = Path(__file__).resolve().parents[2]

Started = subprocess.Popen[bytes] | forked.Process


def surroundings() -> dict[str, str]:
    """Give the environment of what is started: no setting of ours, and no coverage.

    That would make each start half as long again, and cheaper tests go through the same lines.
    """
    return {k: v for k, v in os.environ.items() if not k.startswith(("VCC_", "COV"))}


def _process(arguments: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path) -> Started:
    with output.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


@dataclass
class Stand:
    """Servers that run, and the processes that were started beside them."""

    database_url: str
    redis_url: str
    simulator: Any
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[Started] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """What every process of the stand is told."""
        return {
            **surroundings(),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "VCC_API_URL": self.simulator.url,
            "VCC_AUTH_URL": self.simulator.url,
            "VCC_CLIENT_ID": "simulator",
            "VCC_CLIENT_SECRET": "simulator",
            "VCC_TIMEOUT": "20s",  # a test that needs leases to end soon says so
            "VCC_HOME": str(self.folder / "home"),
            **self.settings,
        }

    def start(self, *command: str, ahead: int = 0, copied: bool = True) -> Started:
        """Start a command in a process group of its own, its output in a log beside.

        Args:
            command: of Celery.
            ahead: seconds by which its clock is wrong.
            copied: begin as a copy of a process that has imported the libraries, which is faster.
        """
        log = self.folder / f"{command[0]}-{len(self.processes)}.log"
        skewed = ["tests.chaos.skewed", str(ahead)] if ahead else []
        arguments = [*skewed, "celery", "-A", "worker.app", *command]
        process = (forked.Process if copied else _process)(arguments, ROOT, self.env, log)
        self.processes.append(process)
        return process

    def worker(self, *options: str, ahead: int = 0) -> Started:
        """Start a worker."""
        name = f"w{len(self.processes)}@test"
        return self.start("worker", "--loglevel", "INFO", "-n", name, *options, ahead=ahead)

    def beat(self) -> Started:
        """Start a beat."""
        return self.start("beat")

    def kill(self, *processes: Started) -> None:
        """Kill processes with all their children, at once and without warning."""
        for process in processes or self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in processes or self.processes:
            process.wait()

    def producer(self) -> Celery:
        """Give a Celery app as a service of somebody else's would have it: it knows the tasks' names only."""
        app = Celery("somebody", broker=self.redis_url)
        app.conf.update(task_default_queue="intake", broker_connection_retry_on_startup=True)
        return app

    def engine(self) -> Engine:
        """Give an engine for a look at the tables."""
        return connect(self.database_url)

    def stats(self) -> dict[str, Any]:
        """Read what ``vcc stats --json`` prints."""
        with opened(self.database_url) as engine, engine.connect() as conn:
            return queries.stats(conn)

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 180) -> Any:
        """Wait for the statistics to fulfil the condition, and return them."""
        return until(lambda: (found := self.stats()) and condition(found) and found, seconds=seconds)

    def logs(self) -> str:
        """Everything that the processes printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


@contextmanager
def standing(stand: Stand) -> Iterator[Stand]:
    """End everything that the stand started."""
    try:
        yield stand
    finally:
        stand.kill()
