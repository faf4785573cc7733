"""Who works shows by what is worked off, not by who answers."""

import json
import os
import signal
import time
from collections.abc import Callable

import psutil
import redis

from tests.acceptance.stand import Stand
from tests.waiting import until
from worker import consumption
from worker.app import app
from worker.ops.metrics import QUEUES

NAME = "w0@test"


def fields(stand: Stand) -> dict[str, float]:
    """Read what the workers told: seconds since 1970 by queue and worker."""
    with redis.Redis.from_url(stand.redis_url, decode_responses=True) as connection:
        return {field: float(at) for field, at in connection.hgetall(consumption.KEY).items()}


def later(stand: Stand, field: str, than: float) -> Callable[[], bool]:
    """Whether a field has gone on."""
    return lambda: fields(stand).get(field, 0.0) > than


def test_a_pool_that_hangs_is_silent_though_its_worker_answers_pings(stand: Stand) -> None:
    """Its doors are looked at and a ping is answered: both by its main process; the queue tells the truth.

    Told to stop, it takes its fields along.
    """
    worker = stand.worker("--pool", "prefork", "--concurrency", "1")
    stand.beat()
    until(later(stand, f"upkeep {NAME}", 0), seconds=30)
    assert abs(fields(stand)[f"upkeep {NAME}"] - time.time()) < 60
    (child,) = psutil.Process(worker.pid).children()
    child.suspend()
    frozen = fields(stand)
    until(later(stand, f"stream {NAME}", frozen.get(f"stream {NAME}", 0)), seconds=30)
    assert stand.producer().control.inspect(timeout=60, limit=1).ping() == {NAME: {"ok": "pong"}}
    assert fields(stand)[f"upkeep {NAME}"] == frozen[f"upkeep {NAME}"]
    child.resume()
    worker.send_signal(signal.SIGTERM)
    worker.wait(120)
    assert fields(stand) == {} or "left behind" in stand.logs()


def test_a_killed_worker_leaves_its_fields(stand: Stand) -> None:
    """So it is missed; and what anybody writes into a message is no queue."""
    worker = stand.worker("--pool", "threads")
    until(later(stand, f"inbox {NAME}", 0), seconds=30)
    stand.producer().send_task("vcc.release", kwargs={"externalid": "e"}, queue="elsewhere")
    with redis.Redis.from_url(stand.redis_url) as connection:
        message = json.loads(connection.rpop("elsewhere"))
        message["properties"]["delivery_info"]["routing_key"] = "Jane Doe"
        connection.lpush("intake", json.dumps(message))
    stand.until(lambda stats: stats["states"]["awaiting_dispatch"] == 1)
    until(later(stand, f"stream {NAME}", fields(stand).get(f"stream {NAME}", 0.0)), seconds=30)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert {field.split()[0] for field in fields(stand)} <= {"stream", "inbox", *QUEUES}
    assert f"inbox {NAME}" in fields(stand)


def test_the_queues_that_are_measured_are_celerys() -> None:
    """One that is added has to be measured too."""
    assert set(QUEUES) == {queue.name for queue in app.conf.task_queues}
