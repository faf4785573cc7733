"""Celery's door: when its messages are acknowledged."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import redis

from tests.acceptance.stand import Stand
from tests.factories import Store, opened
from tests.waiting import until

WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"


@contextmanager
def recording(stand: Stand) -> Iterator[None]:
    """Send a message, and have the worker that took it wait in the middle of its record until the end of the block."""
    with opened(stand.database_url) as engine, engine.begin() as conn:
        conn.exec_driver_sql("lock table interactions in access exclusive mode")
        stand.producer().send_task("vcc.dispatch", kwargs={"externalid": "e", "route": "R", "requestid": "D"})
        until(lambda: Store(engine).one(WAITING), seconds=30)
        yield


def dispatched_once(stand: Stand) -> None:
    """Wait for the dispatch; it is the only one."""
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    assert [entry["requestid"] for entry in stand.simulator.book(full=True)["ledger"]["e"]] == ["D"]


def test_killed_while_a_message_is_recorded(stand: Stand) -> None:
    """A worker killed after it took a message, and before the record's commit, leaves it to the next one."""
    worker = stand.worker("--pool", "threads")
    with recording(stand):
        stand.kill(worker)
    with redis.Redis.from_url(stand.redis_url) as server:
        noted = server.hkeys("unacked")
        assert len(noted) == 1
        server.zadd("unacked_index", dict.fromkeys(noted, 0))  # the visibility timeout is over
    stand.worker("--pool", "threads")
    dispatched_once(stand)


def test_child_killed_while_a_message_is_recorded(stand: Stand) -> None:
    """Where a process of the pool is killed alone, the worker gives its message back to the queue at once."""
    worker = stand.worker("--pool", "prefork", "--concurrency", "1")
    with recording(stand):
        [child] = psutil.Process(worker.pid).children()
        child.kill()
    dispatched_once(stand)
