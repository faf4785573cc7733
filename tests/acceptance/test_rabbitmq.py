"""RabbitMQ as Celery's broker, beside Redis for the stream: what Celery's door promises there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from kombu import Connection

from tests.acceptance.stand import ROOT, Stand, standing
from tests.installed import rabbitmq
from tests.waiting import until
from worker.client import Client
from worker.server import Server
from worker.simulator.run import Background

WORD = "Confidential subject"


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Server]:
    """Run RabbitMQ."""
    with rabbitmq() as running:
        yield running


@pytest.fixture
def stand(
    rabbit: Server, database_url: str, redis_url: str, simulator: Background, tmp_path: Path
) -> Iterator[Stand]:
    """Give a stand whose Celery speaks to RabbitMQ, with empty queues."""
    if rabbit.poll() is not None:  # an earlier test has left it dead
        rabbit.restart()
    with Connection(rabbit.url) as connection:
        for queue in ("intake", "deliver", "upkeep"):
            with suppress(NotFound):
                connection.channel().queue_purge(queue)
    given = {"VCC_BROKER_URL": rabbit.url}
    with standing(Stand(database_url, redis_url, simulator, tmp_path, given)) as ready:
        yield ready


def service(rabbit: Server) -> Celery:
    """Give a Celery app as a service of somebody else's would have it, that waits for RabbitMQ's word."""
    return Celery("somebody", broker=rabbit.url, broker_transport_options={"confirm_publish": True})


def dispatch(app: Celery, *externalids: str) -> None:
    """Send dispatches by name."""
    for externalid in externalids:
        app.send_task("vcc.dispatch", kwargs={"externalid": externalid, "route": "R"}, queue="intake")


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_doors(stand: Stand, rabbit: Server, pool: str) -> None:
    """Jobs that come by Celery are dispatched and released; so are the stream's."""
    stand.worker("--pool", pool, "--concurrency", "2")
    stand.beat()
    dispatch(service(rabbit), "c")
    with Client(stand.redis_url) as client:
        client.dispatch("s", "R")
    stand.until(lambda s: s["states"]["dispatched"] == 2, seconds=30)
    service(rabbit).send_task("vcc.release_many", kwargs={"externalids": ["c", "s"]}, queue="intake")
    stand.until(lambda s: s["states"]["released"] == 2, seconds=30)


def test_worker_killed(stand: Stand, rabbit: Server) -> None:
    """A killed worker's messages come back at once: every job is dispatched, and none twice."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.beat()
    dispatch(service(rabbit), *[f"e{n}" for n in range(600)])
    for goal in (50, 200, 350):
        worker = stand.worker("--pool", "threads", "--concurrency", "4")
        stand.until(lambda s, goal=goal: sum(s["states"].values()) >= goal)
        stand.kill(worker)
    stand.worker("--pool", "threads")
    stand.until(lambda s: s["states"]["dispatched"] == 600)
    book = stand.simulator.book()
    assert (book["dispatched"], book["redispatched"]) == (600, 0)


def test_hostile_messages(stand: Stand, rabbit: Server) -> None:
    """What is no task message is kept whole, and stops nobody; none of it is in the log."""
    stand.worker("--pool", "threads")
    stand.beat()
    dispatch(service(rabbit), "before")
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    hostile = [
        (WORD.encode(), "text/plain", {}),
        (WORD.encode(), "application/x-python-serialize", {"task": "vcc.dispatch", "id": "1"}),
        (b"{" + WORD.encode(), "application/json", {"task": "vcc.dispatch", "id": "2"}),
        (json.dumps([[], {WORD: 1}, {}]).encode(), "application/json", {"task": WORD, "id": "3"}),
        (json.dumps([[WORD], {}, {}]).encode(), "application/json", {"task": "vcc.dispatch", "id": "4"}),
        (json.dumps({WORD: 1}).encode(), "application/json", {}),
    ]
    with Connection(rabbit.url) as connection:
        producer = connection.Producer()
        for body, kind, headers in hostile:
            producer.publish(
                body, routing_key="intake", content_type=kind, content_encoding="utf-8", headers=headers
            )
    dispatch(service(rabbit), "after")
    stand.until(lambda s: s["states"]["dispatched"] == 2)
    stand.until(lambda s: s["rejections"] == len(hostile))
    with Connection(rabbit.url) as connection:
        until(lambda: connection.default_channel.queue_declare("intake", passive=True).message_count == 0)
    assert WORD not in stand.logs()


def test_rabbitmq_dies(stand: Stand, rabbit: Server) -> None:
    """With RabbitMQ away the stream's jobs go on; when it is back, so do Celery's."""
    stand.worker("--pool", "threads")
    stand.beat()
    dispatch(service(rabbit), "before")
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    rabbit.kill()
    with Client(stand.redis_url) as client:
        client.dispatch("between", "R")
        stand.until(lambda s: s["states"]["dispatched"] == 2)
    rabbit.restart()
    dispatch(service(rabbit), *[f"e{n}" for n in range(20)])
    stand.until(lambda s: s["states"]["dispatched"] == 22)


def test_check(stand: Stand) -> None:
    """``vcc check`` looks at the broker too, and names no password."""
    for url, ok in ((stand.settings["VCC_BROKER_URL"], True), ("amqp://u:geheim@127.0.0.1:1//", False)):
        stand.settings["VCC_BROKER_URL"] = url
        done = subprocess.run(
            [sys.executable, "-m", "worker.ops.cli", "check", "--json"],
            env=stand.env, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        [found] = [one for one in json.loads(done.stdout) if one["name"] == "broker"]
        assert found["ok"] == ok
        assert ("RabbitMQ" in found["detail"]) == ok
        assert "geheim" not in done.stdout + done.stderr
