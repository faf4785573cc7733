"""What the measurements of ``scripts/bench`` stand on: real servers of their own, workers, the API's simulator."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from sqlalchemy import Engine

from worker import embedded, settings
from worker.intake.record import Incoming, take_in
from worker.settings import Settings
from worker.simulator.run import Background
from worker.store import migrate
from worker.store.database import connect

ROUNDS = 3
LINKED = [{"type": "clid", "value": "someone@example.test"}, {"type": "mediatype", "value": "Email"}]
POOL = ("--pool", "threads", "--concurrency", "8")
"""What ``vcc worker`` takes unless told otherwise."""


class Bench:
    """Servers that run, and a clean table for each measurement."""

    def __init__(self, folder: Path, engine: Engine, given: Settings, simulator: Background) -> None:
        self.folder = folder
        self.engine = engine
        self.settings = given
        self.simulator = simulator
        self.redis = redis.Redis.from_url(given.redis())
        self._started: list[subprocess.Popen[bytes]] = []

    def clean(self) -> None:
        """Empty every table, and let vacuum begin afresh."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("truncate interactions, invocations, events, receipts, rejections, inbox")
            conn.exec_driver_sql("vacuum analyze")

    def fill(self, count: int) -> float:
        """Record so many dispatches; seconds."""
        start = time.perf_counter()
        for first in range(0, count, 1000):
            batch = [
                Incoming({"externalid": f"e{i}", "route": "R", "linkeddata": LINKED}, f"r{i}")
                for i in range(first, min(first + 1000, count))
            ]
            take_in(self.engine, self.settings, "bench", batch)
        return time.perf_counter() - start

    def count(self, state: str | None = None) -> int:
        """How many interactions are in a state, or in any."""
        with self.engine.connect() as conn:
            return conn.exec_driver_sql(
                "select count(*) from interactions where state = %(s)s::interaction_state or %(s)s::text is null",
                {"s": state},
            ).scalar_one()

    def start(self, *celery: str, **env: str) -> subprocess.Popen[bytes]:
        """Start one of Celery's commands in a process group of its own, with more in its environment."""
        with (self.folder / "celery.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *celery],
                env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def worker(self, *options: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker of this project."""
        return self.start("-A", "worker.app", "worker", *(options or POOL), **env)

    def kill(self, *processes: subprocess.Popen[bytes]) -> None:
        """Kill what was started, whole groups at once and without warning; all of it if none is named."""
        for process in processes or tuple(self._started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._started.remove(process)


@contextmanager
def bench() -> Iterator[Bench]:
    """Start the servers; at the end nothing is left running."""
    with (
        tempfile.TemporaryDirectory() as name,
        embedded.postgres(Path(name)) as postgres,
        embedded.redis(Path(name)) as redis_server,
        Background() as simulator,
    ):
        migrate.upgrade(postgres.url)
        simulator.faults(delay={"by": 0.05})
        os.environ.update(
            DATABASE_URL=postgres.url, REDIS_URL=redis_server.url,
            VCC_API_URL=simulator.url, VCC_AUTH_URL=simulator.url,
            VCC_CLIENT_ID="simulator", VCC_CLIENT_SECRET="simulator",
        )  # fmt: skip
        ready = Bench(Path(name), connect(postgres.url, pool=10), settings.load(), simulator)
        try:
            yield ready
        finally:
            ready.kill()


def until(condition: Callable[[], bool], *, seconds: float = 120, every: float = 0.01) -> None:
    """Wait for a condition, looking so often; give up after so long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"did not come about within {seconds:.0f} seconds")
        time.sleep(every)
