"""Redis behind sentinels: the master dies while jobs come in."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.acceptance.stand import ROOT, Stand, standing
from tests.installed import Watch, sentinels
from tests.waiting import until
from worker.client import Client, SendError
from worker.simulator.run import Background


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Run Redis, a replica and three sentinels."""
    with sentinels() as running:
        yield running


@pytest.fixture
def stand(database_url: str, watch: Watch, simulator: Background, tmp_path: Path) -> Iterator[Stand]:
    """Give a stand whose Redis is behind sentinels."""
    with standing(Stand(database_url, watch.url, simulator, tmp_path)) as ready:
        yield ready


def service(watch: Watch) -> Celery:
    """Give a Celery app as a service of somebody else's would have it."""
    nodes = ";".join(f"sentinel://:hush%2Fhush@127.0.0.1:{port}/0" for port in watch.sentinels)
    options = {"master_name": "vcc", "sentinel_kwargs": {"password": "still"}}
    return Celery("somebody", broker=nodes, broker_transport_options=options)


def test_the_master_dies(stand: Stand, watch: Watch) -> None:
    """All that was taken, or sent again after an error, is dispatched once; all doors work on; no password is shown."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.worker("--pool", "threads")
    stand.beat()
    sent = []
    over = threading.Event()

    def produce() -> None:
        with Client(stand.redis_url, timeout=1.0) as client:
            while not over.is_set():
                job = {"externalid": f"e{len(sent)}", "route": "R", "requestid": f"r{len(sent)}"}
                try:
                    client.send([job])
                except SendError:
                    over.wait(0.05)
                else:
                    sent.append(job)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        until(lambda: stand.stats()["states"]["dispatched"] > 100, seconds=60)
        watch.master.kill()
        before = len(sent)
        until(lambda: len(sent) > before + 200, seconds=60)
    finally:
        over.set()
        producer.join()
    with Client(stand.redis_url) as client:
        client.send(sent)  # what the replica had not heard of yet is lost with its master
    service(watch).send_task("vcc.dispatch", kwargs={"externalid": "c", "route": "R"}, queue="intake")
    stand.until(lambda s: s["states"]["dispatched"] == len(sent) + 1)
    book = stand.simulator.book()
    assert (book["dispatched"], book["redispatched"]) == (len(sent) + 1, 0)
    assert "hush" not in stand.logs()
    assert "still" not in stand.logs()


def test_check(stand: Stand) -> None:
    """``vcc check`` asks the master that the sentinels name."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.ops.cli", "check", "--json"],
        env=stand.env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["redis"]["detail"].endswith(", named by sentinels")
    assert found["redis appendonly"]["detail"] == "yes"


def test_inspect(stand: Stand, watch: Watch) -> None:
    """A worker tells of itself, as Flower asks it to, and none of the passwords."""
    stand.worker("--pool", "threads")
    app = service(watch)
    app.conf.result_backend = None
    with app.connection_for_read() as connection:
        asked = app.control.inspect(timeout=1, connection=connection)
        stats, conf = until(asked.stats, seconds=30), asked.conf()
    told = str([stats, conf])
    assert "broker" in told
    assert "hush" not in told
    assert "still" not in told
