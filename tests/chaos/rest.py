"""After the faults: let the system come to rest, send everything again, and see that each node works by itself."""

import random
import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import redis

from tests.chaos.canary import sing
from tests.chaos.load import Job, Plan, by_inbox, by_stream, insist
from tests.chaos.system import System
from worker.client import STREAM

QUIET = 200.0
"""Seconds without any change after which nothing more is expected: Celery gives back what a dead worker had in its
hands after 150."""

BATCH = 500


def rest(system: System, *, patient: bool = False) -> float:
    """Wait until nothing is left to do, or nothing changes any more; how long that took.

    Args:
        system: all faults over.
        patient: wait for what Celery has to give back of dead workers, too.
    """
    start = since = time.monotonic()
    before = None
    while time.monotonic() - since < QUIET:
        found = _look(system)
        if found is not None and found != before:
            before, since = found, time.monotonic()
        if found is not None and not any(found[1:] if patient else found[1:-1]):
            break
        time.sleep(0.2)
    return time.monotonic() - start


def _look(system: System) -> tuple[object, ...] | None:
    """What is done, and what is left: in the table, the inbox, the stream, Celery's queue and its hands."""
    with suppress(psycopg.Error, redis.RedisError), redis.Redis.from_url(system.redis.url) as conn:
        done, left, inbox = system.rows(
            """select count(*) filter (where state in ('dispatched', 'released', 'cancelled')),
                count(*) filter (where state in ('pending', 'releasing', 'waiting')),
                (select count(*) from inbox) from interactions"""
        )[0]
        # what is in the other queues are wake-ups, which a tick repeats
        unacked = sum(b'"intake"' in message for message in conn.hvals("unacked"))
        return done, left, inbox, conn.xlen(STREAM), conn.llen("intake"), unacked
    return None


def resend(system: System, plan: Plan, rng: random.Random) -> None:
    """Send every job once more under its requestid, as a producer does that can't know what arrived."""
    for action in ("dispatch", "release"):  # their order is the producer's to keep
        with by_stream(system) as to_stream, by_inbox(system) as to_inbox:
            for batch in _batches([s.job for s in plan.steps if s.job.get("action", "dispatch") == action]):
                insist(rng.choice((to_stream, to_inbox)), batch)
        rest(system)


def _batches(jobs: list[Job]) -> Iterator[list[Job]]:
    for first in range(0, len(jobs), BATCH):
        yield jobs[first : first + BATCH]


def muster(system: System) -> dict[str, float | None]:
    """See that each node serves by itself, so that none has only looked alive; seconds that its canaries took."""
    found = {}
    for name in system.nodes:
        with system.without(other for other in system.nodes if other != name):
            found[name] = sing(system)
    return found
