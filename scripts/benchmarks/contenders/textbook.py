"""The textbook Celery design: a task for each interaction that inserts, calls and updates.

As Celery's own pages teach it: the prefork pool, ``acks_late``, ``autoretry_for`` with backoff, a connection to the
database and an HTTP client that each process keeps.
"""

import json
import subprocess

import httpx
import psycopg
import redis
from celery import Celery, signals

from benchmarks.contenders.peers import (
    ANSWERED,
    HEADERS,
    INVOKE,
    RECORD,
    TRIES,
    Peer,
    api,
    broker,
    database,
    invocation,
)
from benchmarks.jobs import Job, until

app = Celery("textbook", broker=broker(1))
app.conf.update(
    task_default_queue="textbook",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


class Kept:
    """What a process keeps."""

    conn: psycopg.Connection
    client: httpx.Client


@signals.worker_process_init.connect
def connect(**_: object) -> None:
    """Connect once a process."""
    Kept.conn = psycopg.connect(database(), autocommit=True)
    Kept.client = httpx.Client(base_url=api(), headers=HEADERS, timeout=30)


@app.task(
    name="textbook.dispatch", bind=True, acks_late=True, max_retries=TRIES,
    autoretry_for=(httpx.HTTPError, psycopg.OperationalError), retry_backoff=True,
)  # fmt: skip
def dispatch(self: object, externalid: str, route: str, linkeddata: list[dict[str, str]]) -> None:
    """Write it down, send it, write down that it was sent."""
    Kept.conn.execute(RECORD, [externalid, json.dumps(linkeddata)])
    body = invocation(self.request.id, externalid, route, linkeddata)  # type: ignore[attr-defined]
    Kept.client.post(INVOKE, json=body).raise_for_status()
    Kept.conn.execute(ANSWERED, [externalid])


class Textbook(Peer):
    """The workers are one ``celery worker``."""

    name = "textbook Celery"
    size = "prefork 48"

    def clean(self) -> None:
        """Empty table and queue."""
        super().clean()
        redis.Redis.from_url(broker(1)).flushdb()

    def start(self, size: str | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start the worker; a size reads ``prefork 16``."""
        pool, count = (size or self.size).split()
        process = self.stand.start(
            "celery", "-A", __name__, "worker", "--pool", pool, "--concurrency", count, **env
        )
        until(lambda: bool(app.control.ping(timeout=0.3)))
        return process

    def enqueue(self, job: Job) -> object:
        """Enqueue by ``delay``."""
        return dispatch.delay(**job)

    def fill(self, some: list[Job]) -> None:
        """Enqueue into a list that nobody reads."""
        with app.producer_pool.acquire() as producer:
            for job in some:
                dispatch.apply_async(kwargs=job, queue="held", producer=producer)

    def let_go(self) -> None:
        """Give the list the name of the queue."""
        redis.Redis.from_url(broker(1)).rename("held", "textbook")
