"""Workers told to stop: they end after the calls that they are in, and leave nothing in flight.

``LATE`` is what is promised, two seconds, and what a busy machine adds.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

import pytest

from tests.acceptance.stand import Stand
from tests.waiting import until
from worker import embedded

LATE = 2.0 + 18.0
ATTEMPTED = "select count(*) from interactions where state = 'pending' and attempts > 0"


def load(stand: Stand, count: int) -> None:
    """Send jobs by Celery's door, for many small calls."""
    stand.settings["VCC_MAX_REQUESTS"] = "20"
    producer = stand.producer()
    for start in range(0, count, 100):
        jobs = [{"externalid": f"e-{i}", "route": "R"} for i in range(start, start + 100)]
        producer.send_task("vcc.dispatch_many", kwargs={"jobs": jobs})


def stop(process: subprocess.Popen[Any], *, group: bool = False, patience: float = 120) -> float:
    """Tell a process to stop, or its whole group; the seconds until it has ended."""
    start = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    process.wait(patience)
    return time.monotonic() - start


def one(stand: Stand, sql: str) -> Any:
    """Read one value."""
    engine = stand.engine()
    with engine.connect() as conn:
        found = conn.exec_driver_sql(sql).scalar_one()
    engine.dispose()
    return found


@pytest.mark.parametrize(("pool", "group"), [("threads", False), ("prefork", False), ("prefork", True)])
def test_under_load(stand: Stand, pool: str, group: bool) -> None:
    """Told to stop in the middle, a worker settles its calls and gives the rest back; the next one sends that once."""
    stand.simulator.faults(delay={"by": 0.5})
    load(stand, 600)
    worker = stand.worker("--pool", pool, "--concurrency", "4")
    until(lambda: stand.simulator.book()["calls"] >= 6, seconds=40)
    assert stop(worker, group=group) < 0.5 + LATE
    found = stand.stats()
    assert found["in_flight"] == 0
    assert found["states"]["pending"] > 0
    assert one(stand, ATTEMPTED) == 0
    stand.simulator.clear_faults()
    stand.worker("--pool", "threads")
    stand.producer().send_task("vcc.deliver", queue="deliver")
    stand.until(lambda s: s["states"]["dispatched"] == 600)
    book = stand.simulator.book()
    assert (book["redispatched"], book["repeated_requestids"]) == (0, 0)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_api_that_is_silent(stand: Stand, pool: str) -> None:
    """A call that gets no answer is waited for as long as VCC_TIMEOUT says, and settled as unknown."""
    stand.settings["VCC_TIMEOUT"] = "3s"
    stand.simulator.faults(delay={"by": 60})
    load(stand, 300)
    worker = stand.worker("--pool", pool, "--concurrency", "4")
    stand.until(lambda s: s["in_flight"] > 0)
    assert stop(worker) < 3 + LATE
    assert stand.stats()["in_flight"] == 0
    assert one(stand, "select count(*) from invocations where outcome is null") == 0


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_database_that_hangs(stand: Stand, postgres_server: embedded.Server, pool: str) -> None:
    """With Postgres frozen a worker ends all the same, as if it had been killed."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.simulator.faults(delay={"by": 0.2})
    load(stand, 600)
    worker = stand.worker("--pool", pool, "--concurrency", "4")
    until(lambda: stand.simulator.book()["calls"] >= 3, seconds=40)
    postgres_server.freeze()
    try:
        assert stop(worker) < 1 + LATE
    finally:
        postgres_server.thaw()
    assert "left behind" in stand.logs()


def test_a_broker_that_hangs(stand: Stand, redis_server: embedded.Server) -> None:
    """With Redis frozen a worker does not wait to take leave of it; nor does beat."""
    beat = stand.beat()
    worker = stand.worker("--pool", "prefork", "--concurrency", "2")
    until(lambda: "Task vcc.sweep" in stand.logs(), seconds=40)
    redis_server.freeze()
    try:
        assert stop(worker) < LATE
        assert stop(beat) < LATE
    finally:
        redis_server.thaw()


def test_told_from_afar(stand: Stand) -> None:
    """Told by Celery's remote control, without a signal, a worker ends as well."""
    worker = stand.worker("--pool", "threads")
    until(lambda: "ready." in stand.logs(), seconds=40)
    until(lambda: _shut_down(stand) or _has_ended(worker), seconds=10 + LATE)


def _shut_down(stand: Stand) -> None:
    # a broadcast is heard by those who listen by now, and a connection from Celery's pools may be broken
    with stand.producer() as app, app.connection_for_write() as connection:
        app.control.shutdown(connection=connection)


def _has_ended(worker: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        worker.wait(1)
    return worker.poll() is not None


def test_told_again_and_again(stand: Stand) -> None:
    """Whoever can't wait makes Celery end cold: what it left comes back by its lease, and is sent once."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.simulator.faults(delay={"by": 0.5})
    load(stand, 600)
    worker = stand.worker("--pool", "prefork", "--concurrency", "2")
    until(lambda: stand.simulator.book()["calls"] >= 3, seconds=40)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        worker.send_signal(number)
    worker.wait(1 + LATE)
    stand.simulator.clear_faults()
    stand.worker("--pool", "threads")
    stand.beat()
    stand.until(lambda s: s["states"]["dispatched"] == 600)
    assert stand.simulator.book()["redispatched"] == 0
