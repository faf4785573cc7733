"""Procrastinate, the way its pages teach it for I/O: an ``async`` task, ``retry``, a worker with concurrency.

Its tasks run on one event loop: they share an HTTP client and a pool of connections. More than one core is had by more
than one worker.
"""

import json
import subprocess
import uuid
from typing import TYPE_CHECKING

import httpx
import procrastinate
import psycopg_pool

from benchmarks.contenders.peers import (
    ANSWERED,
    HEADERS,
    INVOKE,
    RECORD,
    TRIES,
    Peer,
    api,
    database,
    invocation,
)
from benchmarks.jobs import Job

if TYPE_CHECKING:
    from benchmarks.stand import Stand

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=database()))


class Kept:
    """What a worker keeps."""

    pool: psycopg_pool.AsyncConnectionPool
    client: httpx.AsyncClient


@app.task(
    name="dispatch", queue="peer", pass_context=True,
    retry=procrastinate.RetryStrategy(max_attempts=TRIES, exponential_wait=2),
)  # fmt: skip
async def dispatch(
    context: procrastinate.JobContext, externalid: str, route: str, linkeddata: list[dict[str, str]]
) -> None:
    """Write it down, send it, write down that it was sent."""
    requestid = str(uuid.uuid5(uuid.NAMESPACE_OID, externalid))
    async with Kept.pool.connection() as conn:
        await conn.execute(RECORD, [externalid, json.dumps(linkeddata)])
    answer = await Kept.client.post(INVOKE, json=invocation(requestid, externalid, route, linkeddata))
    answer.raise_for_status()
    async with Kept.pool.connection() as conn:
        await conn.execute(ANSWERED, [externalid])


async def work(concurrency: int) -> None:
    """Run a worker."""
    async with (
        psycopg_pool.AsyncConnectionPool(
            database(), min_size=4, max_size=10, kwargs={"autocommit": True}
        ) as Kept.pool,
        httpx.AsyncClient(base_url=api(), headers=HEADERS, timeout=30) as Kept.client,
        app.open_async(),
    ):
        await app.run_worker_async(queues=["peer"], concurrency=concurrency)


class Procrastinate(Peer):
    """The workers are processes, each with an event loop."""

    name = "Procrastinate"
    size = "2x16"

    def __init__(self, stand: "Stand") -> None:
        super().__init__(stand)
        self._last: Job = {}
        app.open()
        if not app.check_connection():
            app.schema_manager.apply_schema()

    def clean(self) -> None:
        """Empty table and queue."""
        super().clean()
        self._conn.execute("truncate procrastinate_jobs cascade")
        self._conn.execute("vacuum analyze procrastinate_jobs")

    def start(self, size: str | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start the workers; a size reads ``2x16``: processes, tasks at once in each."""
        processes, concurrency = (size or self.size).split("x")
        return self.stand.start(f"{__name__}_worker", processes, concurrency, **env)

    def enqueue(self, job: Job) -> object:
        """Enqueue by ``defer``."""
        return dispatch.defer(**job)

    def fill(self, some: list[Job]) -> None:
        """Enqueue all but the last into a queue that nobody reads."""
        *others, self._last = some
        for first in range(0, len(others), 1000):
            dispatch.configure(queue="held").batch_defer(*others[first : first + 1000])

    def let_go(self) -> None:
        """Give the queue the name of the other; the last one's arrival wakes the workers."""
        self._conn.execute("update procrastinate_jobs set queue_name = 'peer' where queue_name = 'held'")
        dispatch.defer(**self._last)
