"""Dramatiq with Redis, the way its guide teaches it: an actor, its own retries, processes of threads.

An actor runs in one of many threads: they share the process's HTTP client, and each has a connection to the database.
"""

import json
import subprocess
import threading
import uuid
from functools import cache

import dramatiq
import httpx
import psycopg
import redis
from dramatiq.brokers.redis import RedisBroker

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
from benchmarks.jobs import Job

dramatiq.set_broker(RedisBroker(url=broker(2)))
kept = threading.local()


@cache
def client() -> httpx.Client:
    """Keep the process's HTTP client."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.Client(base_url=api(), headers=HEADERS, timeout=30, limits=limits)


def connection() -> psycopg.Connection:
    """Keep the thread's connection."""
    if not hasattr(kept, "conn"):
        kept.conn = psycopg.connect(database(), autocommit=True)
    return kept.conn


@dramatiq.actor(queue_name="peer", max_retries=TRIES)
def dispatch(externalid: str, route: str, linkeddata: list[dict[str, str]]) -> None:
    """Write it down, send it, write down that it was sent."""
    conn = connection()
    conn.execute(RECORD, [externalid, json.dumps(linkeddata)])
    body = invocation(str(uuid.uuid5(uuid.NAMESPACE_OID, externalid)), externalid, route, linkeddata)
    client().post(INVOKE, json=body).raise_for_status()
    conn.execute(ANSWERED, [externalid])


class Dramatiq(Peer):
    """The workers are the ``dramatiq`` command."""

    name = "Dramatiq"
    size = "2x32"

    def clean(self) -> None:
        """Empty table and queue."""
        super().clean()
        redis.Redis.from_url(broker(2)).flushdb()

    def start(self, size: str | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start the workers; a size reads ``2x16``: processes, threads in each."""
        processes, threads = (size or self.size).split("x")
        return self.stand.start(
            "dramatiq", __name__, "--queues", "peer", "--processes", processes, "--threads", threads, **env
        )

    def enqueue(self, job: Job) -> object:
        """Enqueue by ``send``."""
        return dispatch.send(**job)

    def fill(self, some: list[Job]) -> None:
        """Enqueue where nobody reads."""
        held = RedisBroker(url=broker(2), namespace="held")
        for job in some:
            held.enqueue(dispatch.message(**job))

    def let_go(self) -> None:
        """Give the queue the name that the workers read: its messages, then the list of their ids."""
        with redis.Redis.from_url(broker(2)).pipeline(transaction=True) as pipe:
            pipe.rename("held:peer.msgs", "dramatiq:peer.msgs")
            pipe.rename("held:peer", "dramatiq:peer")
            pipe.execute()
