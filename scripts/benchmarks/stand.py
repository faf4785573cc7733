"""What the measures stand on: servers of their own, the light API, processes to start, a table to fill.

Every contender has the same servers: Postgres and Redis as ``vcc up`` runs them (``fsync`` and
``synchronous_commit`` on; an append-only file, ``everysec``).
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import redis
from sqlalchemy import Engine

from benchmarks.api import Api, light
from benchmarks.jobs import Job, jobs, say, until
from worker import embedded, settings
from worker.intake.record import Incoming, take_in
from worker.settings import Settings
from worker.store import gate, migrate
from worker.store.database import connect

__all__ = ["DELAY", "THREADS", "Job", "Stand", "jobs", "say", "stand", "until"]

THREADS = 6
"""What ``vcc worker`` takes unless told otherwise: so many calls are in flight at once."""

DELAY = 0.05
"""Seconds that the API takes to answer."""


class Stand:
    """Servers that run, and a clean table for each measurement.

    Attributes:
        folder: for files; gone at the end.
        engine: this project's database.
        peers: the URL of the other contenders' database, on the same server.
        settings: this project's, as its workers read them.
        redis: this project's number on the Redis; the other contenders have the numbers from 1.
        api: the light API.
    """

    def __init__(self, folder: Path, engine: Engine, peers: str, given: Settings, api: Api) -> None:
        self.folder = folder
        self.engine = engine
        self.peers = peers
        self.settings = given
        self.redis = redis.Redis.from_url(given.redis())
        self.api = api
        self._started: list[subprocess.Popen[bytes]] = []

    def redis_url(self, number: int) -> str:
        """Name one of the databases of the Redis."""
        return f"{self.settings.redis().removesuffix('/0')}/{number}"

    def versions(self) -> str:
        """Name the servers."""
        with self.engine.connect() as conn:
            postgres = conn.exec_driver_sql("show server_version").scalar_one()
        return f"PostgreSQL {postgres}, Redis {self.redis.info('server')['redis_version']}"

    def clean(self) -> None:
        """Empty every table and this project's Redis, and let vacuum begin afresh."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("truncate interactions, invocations, events, receipts, rejections, inbox")
            conn.exec_driver_sql("vacuum analyze")
        self.redis.flushdb()

    def fill(self, count: int, prefix: str = "e", **fields: Any) -> None:
        """Record so many dispatches, due now: the first as every door does, the others like it in one statement."""
        first = jobs(1, prefix, **fields)[0]
        take_in(self.engine, self.settings, "bench", [Incoming(first, f"{first['externalid']:0>36}")])
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            added = conn.exec_driver_sql(
                FILL, {"count": count, "prefix": prefix, "first": first["externalid"]}
            )
            if added.rowcount != count - 1:
                raise ValueError(f"{prefix}: some of these were there before")
            conn.exec_driver_sql("vacuum analyze interactions")
            conn.exec_driver_sql("checkpoint")  # or it would fall into the measurement

    def count(self, state: str | None = None) -> int:
        """How many interactions are in a state, or in any."""
        with self.engine.connect() as conn:
            return conn.exec_driver_sql(
                "select count(*) from interactions where state = %(s)s::interaction_state or %(s)s::text is null",
                {"s": state},
            ).scalar_one()

    def pause(self) -> None:
        """Close the valve: nothing is sent."""
        with self.engine.begin() as conn:
            gate.pause(conn, "the benchmark is not ready")

    def resume(self) -> None:
        """Open the valve, and wake a delivery."""
        from worker.tasks import wake  # noqa: PLC0415 - the app reads the environment when it is imported

        with self.engine.begin() as conn:
            gate.resume(conn)
        wake()

    def start(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start ``python -m COMMAND`` in a process group of its own, with more in its environment."""
        with (self.folder / "started.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def worker(self, *options: str, **env: str) -> subprocess.Popen[bytes]:
        """Start ``vcc worker``, and wait until it answers."""
        process = self.start("worker.ops.cli", "worker", *options, **env)
        until(self.answers)
        return process

    def answers(self) -> bool:
        """Whether a worker answers; it then is connected, and its pool is there."""
        from worker.app import app  # noqa: PLC0415 - the app reads the environment when it is imported

        return bool(app.control.ping(timeout=0.3))

    def kill(self, *processes: subprocess.Popen[bytes]) -> None:
        """Kill what was started, whole groups at once and without warning; all of it if none is named."""
        for process in processes or tuple(self._started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._started.remove(process)


FILL = """insert into interactions (externalid, state, lane, route, provider, request, bytes,
        dispatch_requestid, due_at)
    select %(prefix)s || lpad(i::text, 8, '0'), state, lane, route, provider, request, bytes,
        gen_random_uuid()::text, due_at
    from interactions, generate_series(1, %(count)s - 1) i where externalid = %(first)s"""


@contextmanager
def stand() -> Iterator[Stand]:
    """Start the servers; at the end nothing is left running."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        embedded.postgres(Path(name)) as postgres,
        embedded.redis(Path(name)) as redis_server,
        light() as api,
    ):
        migrate.upgrade(postgres.url)
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            conn.execute("create database peers")
        peers = postgres.url.removesuffix("/vcc") + "/peers"
        os.environ.update(
            DATABASE_URL=postgres.url, REDIS_URL=redis_server.url, PEERS_URL=peers,
            VCC_API_URL=api.url, VCC_AUTH_URL=api.url, VCC_CLIENT_ID="light", VCC_CLIENT_SECRET="light",
            VCC_HOME=name,
        )  # fmt: skip
        api.reset(DELAY)
        ready = Stand(Path(name), connect(postgres.url, pool=10), peers, settings.load(), api)
        try:
            yield ready
        except Exception:
            log = ready.folder / "started.log"
            say(f"what was started said last:\n{log.read_text()[-3000:] if log.exists() else 'nothing'}")
            raise
        finally:
            ready.kill()
