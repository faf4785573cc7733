"""Workers in earnest: Celery's doors, deaths, outages."""

from typing import Any

import pytest
from celery import Celery

from tests.acceptance.stand import Stand
from tests.waiting import until
from worker import embedded
from worker.store import gate

WORD = "Confidential subject"


def job(externalid: str, route: str = "R", **fields: Any) -> dict[str, Any]:
    """Make a valid dispatch."""
    return {"externalid": externalid, "route": route, **fields}


def enqueue(producer: Celery, jobs: list[dict[str, Any]], size: int = 500) -> None:
    """Send jobs, so many a message."""
    for start in range(0, len(jobs), size):
        producer.send_task("vcc.dispatch_many", kwargs={"jobs": jobs[start : start + size]})


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_jobs_by_the_names_of_the_tasks(stand: Stand, pool: str) -> None:
    """A service that knows only the tasks' names has its jobs delivered, released, and its mistakes kept."""
    stand.worker("--pool", pool, "--concurrency", "4")
    stand.beat()
    producer = stand.producer()
    linked = [{"type": "name", "value": WORD}]
    for i in range(20):
        fields = {**job(f"one-{i}", provider="Crm"), "linkeddata": linked, "interactiontype": "chat"}
        producer.send_task("vcc.dispatch", kwargs=fields)
    enqueue(producer, [job(f"many-{i}") for i in range(600)])
    producer.send_task("vcc.no_such_task", kwargs={"externalid": WORD})
    producer.send_task("vcc.dispatch", kwargs={"externalid": WORD})
    producer.send_task("vcc.dispatch", args=[WORD] * 20)
    producer.send_task("vcc.dispatch_many", kwargs={"jobs": WORD})
    stand.until(lambda s: s["states"]["dispatched"] == 620)
    producer.send_task("vcc.release", kwargs={"externalid": "one-0"})
    producer.send_task("vcc.release_many", kwargs={"externalids": [f"many-{i}" for i in range(600)]})
    stand.until(lambda s: s["states"]["released"] == 601 and s["rejections"] == 4)
    book = stand.simulator.book(full=True)
    assert (book["dispatched"], book["released"]) == (620, 601)
    assert book["releases_without_provider"] == book["unknown_releases"] == 0
    assert [entry["provider"] for entry in book["ledger"]["one-0"]] == ["Crm", "Crm"]
    assert WORD not in stand.logs()


def test_a_message_that_breaks_the_protocol_is_kept(stand: Stand) -> None:
    """What is no task message, or has a body that can't be read, goes whole into the rejections."""
    stand.worker("--pool", "threads")
    producer = stand.producer()
    with producer.connection_for_write() as connection, connection.Producer() as raw:
        raw.publish({"hello": WORD}, routing_key="intake", serializer="json")
        headers = {"lang": "js", "task": "vcc.dispatch", "id": "an-id"}
        raw.publish(
            b"{broken",
            routing_key="intake",
            headers=headers,
            content_type="application/json",
            content_encoding="utf-8",
        )
    enqueue(producer, [job("after")])
    stand.until(lambda s: s["states"]["dispatched"] == 1 and s["rejections"] == 2)
    assert WORD not in stand.logs()


def test_workers_killed_in_the_middle(stand: Stand) -> None:
    """Workers killed again and again while calls are under way: everything arrives, nothing twice."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.settings["VCC_MAX_REQUESTS"] = "50"
    stand.simulator.faults(delay={"by": 0.2})
    stand.beat()
    total = 3000
    enqueue(stand.producer(), [job(f"e-{i}", lane="backlog") for i in range(total)])
    for pool in ("threads", "prefork", "threads"):
        seen = stand.simulator.book()["calls"]
        worker = stand.worker("--pool", pool, "--concurrency", "4")
        until(lambda seen=seen: stand.simulator.book()["calls"] > seen + 6, seconds=30)  # type: ignore[misc]
        stand.kill(worker)
    stand.simulator.clear_faults()
    stand.worker("--pool", "threads")
    found = stand.until(lambda s: s["states"]["dispatched"] == total)
    book = stand.simulator.book()
    assert (book["dispatched"], book["redispatched"]) == (total, 0)
    assert found["states"]["failed"] == 0


def test_postgres_restarted_while_jobs_come_in(stand: Stand, postgres_server: embedded.Server) -> None:
    """Postgres dies and comes back while messages arrive: not one is lost."""
    stand.settings["VCC_TIMEOUT"] = "3s"
    stand.worker("--pool", "threads")
    stand.beat()
    producer = stand.producer()
    stand.until(lambda s: s["due"] == 0)
    for i in range(400):
        producer.send_task("vcc.dispatch", kwargs=job(f"e-{i}"))
        if i == 100:
            stand.until(lambda s: sum(s["states"].values()) > 10)
            postgres_server.kill()
        if i == 300:
            postgres_server.restart()
    stand.until(lambda s: s["states"]["dispatched"] == 400, 90)
    assert stand.simulator.book()["dispatched"] == 400


def test_redis_restarted_while_jobs_are_delivered(stand: Stand, redis_server: embedded.Server) -> None:
    """Redis dies and comes back: what is recorded is delivered, and workers take jobs in again."""
    worker = stand.worker("--pool", "threads")
    stand.beat()
    enqueue(stand.producer(), [job(f"a-{i}") for i in range(500)])
    stand.until(lambda s: s["states"]["dispatched"] == 500)
    redis_server.kill()
    redis_server.restart()
    if (
        until(lambda: worker.poll() is not None or "Connected to redis" in stand.logs(), seconds=30)
        and worker.poll()
    ):
        stand.worker("--pool", "threads")  # a supervisor's part
    enqueue(stand.producer(), [job(f"b-{i}") for i in range(500)])
    stand.until(lambda s: s["states"]["dispatched"] == 1000)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"unauthorised": {"at": "both"}}, "unauthorised"),
        ({"not_found": {}}, "misconfigured"),
        ({"html503": {"at": "both"}}, "unreachable"),
        ({"throttle": {}}, "throttled"),
    ],
)
def test_an_outage_costs_no_row(stand: Stand, fault: dict[str, Any], reason: str) -> None:
    """Whatever keeps the API away, calls stop but for probes, the reason is told, and all is delivered after."""
    stand.simulator.faults(**fault)
    stand.worker("--pool", "threads")
    stand.beat()
    enqueue(stand.producer(), [job(f"e-{i}") for i in range(2000)])
    found = stand.until(lambda s: s["gate"]["reason"] == reason)
    assert not found["gate"]["open"]
    assert found["gate"]["opens_at"]
    before = stand.simulator.book()["calls"]
    found = stand.until(lambda s: sum(s["states"].values()) == 2000)
    assert found["states"]["pending"] == 2000
    assert stand.simulator.book()["calls"] - before <= 8
    stand.simulator.clear_faults()
    found = stand.until(lambda s: s["states"]["dispatched"] == 2000)
    assert found["gate"]["open"]
    assert stand.simulator.book()["redispatched"] == 0


def test_a_route_that_the_api_refuses(stand: Stand) -> None:
    """A wrong route among good ones is held after 20 refusals, costs few calls, and can be let go."""
    stand.simulator.faults(refuse_routes=["Wrong"])
    jobs = [job(f"e-{i}", "Wrong" if i % 2 else "Right") for i in range(10_000)]
    enqueue(stand.producer(), jobs, 1000)
    stand.worker("--pool", "threads")
    stand.beat()
    found = stand.until(
        lambda s: s["states"]["dispatched"] == 5000 and s["held_routes"] and s["due"] == 0, 90
    )
    assert list(found["held_routes"]) == ["Wrong"]
    assert "does not exist" in found["held_routes"]["Wrong"]
    assert 20 <= found["states"]["failed"] <= 25
    assert found["states"]["failed"] + found["states"]["pending"] == 5000
    assert stand.simulator.book()["calls"] <= 150


def test_a_pause_outlives_outages_and_restarts(stand: Stand) -> None:
    """A pause of an operator's holds through outages and deaths until it is taken back; jobs are taken in meanwhile."""
    stand.settings["VCC_TIMEOUT"] = "3s"
    stand.simulator.faults(status={"status": 500})
    worker = stand.worker("--pool", "threads")
    stand.beat()
    enqueue(stand.producer(), [job("first")])
    stand.until(lambda s: s["gate"]["reason"] == "unreachable")
    engine = stand.engine()
    with engine.begin() as conn:
        gate.pause(conn, "maintenance")
    stand.simulator.clear_faults()
    calls = stand.simulator.book()["calls"]
    stand.kill(worker)
    stand.worker("--pool", "threads")
    enqueue(stand.producer(), [job(f"e-{i}") for i in range(100)])
    found = stand.until(lambda s: s["states"]["pending"] == 101)
    assert (found["gate"]["open"], found["gate"]["reason"], found["gate"]["message"]) == (
        False,
        "paused",
        "maintenance",
    )
    # the ticks go on waking deliveries, which find the valve closed
    until(lambda: stand.logs().count("Task vcc.deliver") > 8, seconds=30)
    assert stand.simulator.book()["calls"] <= calls + 1
    with engine.begin() as conn:
        gate.resume(conn)
    engine.dispose()
    stand.until(lambda s: s["states"]["dispatched"] == 101)


def test_a_worker_before_the_migration(stand: Stand) -> None:
    """Jobs that can't be recorded yet wait in the queue, without a hot loop, until the tables are there."""
    engine = stand.engine()
    with engine.begin() as conn:
        conn.exec_driver_sql("alter table interactions rename to elsewhere")
    stand.worker("--pool", "threads")
    enqueue(stand.producer(), [job("early")])
    until(lambda: "message returned" in stand.logs(), seconds=30)
    until(lambda: stand.logs().count("message returned") >= 2, seconds=30)
    assert stand.logs().count("message returned") < 10
    with engine.begin() as conn:
        conn.exec_driver_sql("alter table elsewhere rename to interactions")
    engine.dispose()
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    assert stand.stats()["rejections"] == 0


def test_arguments_that_no_rule_foresaw(stand: Stand) -> None:
    """A call that Python itself refuses is kept whole; an action of its own makes no release of a dispatch."""
    stand.worker("--pool", "threads", "--loglevel", "DEBUG")
    producer = stand.producer()
    producer.send_task("vcc.dispatch", kwargs={"self": WORD, "externalid": "a", "route": "R"})
    producer.send_task("vcc.dispatch", kwargs={"action": "release", "externalid": WORD})
    producer.send_task("vcc.dispatch", kwargs=job("b"), task_id="odd\x00id")
    found = stand.until(lambda s: s["states"]["dispatched"] == 1 and s["rejections"] == 2)
    assert found["states"]["awaiting_dispatch"] == 0
    assert WORD not in stand.logs()


def test_the_only_worker_is_an_hour_ahead(stand: Stand) -> None:
    """Ticks that a clock in order has stamped are not too old for a worker whose own is wrong."""
    engine = stand.engine()
    with engine.begin() as conn:
        gate.pause(conn, "until the worker is there")
    stand.worker("--pool", "threads", ahead=3600)
    enqueue(stand.producer(), [job(f"e-{i}") for i in range(100)])
    stand.until(lambda s: s["states"]["pending"] == 100)
    with engine.begin() as conn:
        gate.resume(conn)
    engine.dispose()
    stand.beat()
    stand.until(lambda s: s["states"]["dispatched"] == 100)
