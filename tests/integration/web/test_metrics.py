"""``/metrics``, ``/healthz`` and ``/readyz``, asked as Prometheus asks, of real servers."""

import shutil
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.factories import Store, dispatch, opened, release, settings
from tests.waiting import until
from worker import sentinels
from worker.client import Client
from worker.consumption import KEY
from worker.domain.outcome import Refused, Throttled
from worker.embedded import Server
from worker.ops import health, metrics
from worker.ops.census import Census
from worker.store import audit, gate, imports, tallies

ROUTES = [
    Route("/metrics", metrics.endpoint),
    Route("/healthz", health.alive),
    Route("/readyz", health.ready),
]


class Window:
    """The three endpoints, and the store and the Redis behind them."""

    def __init__(self, store: Store, redis_url: str, **given: Any) -> None:
        self.store = store
        self.redis = sentinels.client(redis_url, socket_timeout=30, socket_connect_timeout=30)
        app = Starlette(routes=ROUTES)
        app.state.deps = SimpleNamespace(
            settings=settings(**given),
            engine=store.engine,
            redis=lambda: self.redis,
            census=Census(store.engine, leak_after=3600.0),
        )
        self.client = TestClient(app, client=("127.0.0.1", 50000))

    def scrape(self) -> dict[tuple[str, ...], float]:
        """Read all samples: by name, and the values of their labels in the order of these' names."""
        answer = self.client.get("/metrics")
        assert answer.status_code == 200
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }


@pytest.fixture
def window(database_url: str, redis_url: str) -> Iterator[Window]:
    """Give the endpoints, seen from this machine."""
    with opened(database_url) as engine:
        yield Window(Store(engine), redis_url)


def test_what_happened_shows_in_the_metrics(window: Window) -> None:
    """States, lanes, outcomes, latencies and what is due are what the table says."""
    store = window.store
    store.record(dispatch("a"), dispatch("b", lane="backlog"))
    store.settle(store.claim(limit=1))
    store.settle(store.claim(), Refused, status=400, seconds=0.3)
    store.record(dispatch("c", lane="backlog"), release("a"))
    store.run(
        "update interactions set due_at = now() - interval '1 minute', updated_at = due_at where externalid = 'c'"
    )
    store.run("insert into routes (route, refused, held_at) values ('x', 20, now())")
    store.run("insert into rejections (door, place, reason, job) values ('stream', 'p', 'r', '')")
    found = window.scrape()
    assert found["vcc_interactions", "backlog", "failed"] == 1
    assert found["vcc_interactions", "live", "releasing"] == 1
    assert found["vcc_interactions", "live", "orphaned"] == 0
    assert (found["vcc_due", "release"], found["vcc_due", "live"], found["vcc_due", "backlog"]) == (1, 0, 1)
    assert found["vcc_oldest_due_seconds", "live"] == 0
    assert found["vcc_calls_total", "accepted"] == found["vcc_calls_interactions_total", "accepted"] == 1
    assert found["vcc_call_duration_seconds_bucket", "0.25", "refused"] == 0
    assert found["vcc_call_duration_seconds_bucket", "0.5", "refused"] == 1
    assert found["vcc_call_duration_seconds_count", "refused"] == 1
    assert found["vcc_held_routes",] == found["vcc_rejections",] == found["vcc_failures_recent",] == 1


def test_new_rejections_and_failures_are_not_hidden_by_old_ones_that_go(window: Window) -> None:
    """What is told is how many came lately, whatever was pruned or retried meanwhile."""
    store = window.store
    for age in ("2 days", "1 minute"):
        store.run(
            "insert into rejections (door, place, reason, job, at)"
            f" values ('stream', '{age}', 'r', '', now() - interval '{age}')"
        )
    store.record(dispatch("old"), dispatch("new"))
    for _ in range(2):
        store.settle(store.claim(limit=1), Refused, status=400)
    store.run("update interactions set updated_at = now() - interval '1 hour' where externalid = 'old'")
    found = window.scrape()
    assert (found["vcc_rejections_recent",], found["vcc_failures_recent",]) == (1, 1)


def test_a_dispatch_without_a_release_is_a_leak_after_the_set_time(window: Window) -> None:
    """Only what was dispatched longer ago than VCC_LEAK_AFTER counts."""
    window.store.record(dispatch("old"), dispatch("new"))
    window.store.deliver()
    window.store.run(
        "update interactions set dispatched_at = now() - interval '2 hours' where externalid = 'old'"
    )
    assert window.scrape()["vcc_leaks",] == 1


def test_the_valve_shows_with_its_reason(window: Window) -> None:
    """Throttled it is closed for a time; paused it is closed until somebody resumes it."""
    assert window.scrape()["vcc_valve_open",] == 1
    window.store.record(dispatch())
    window.store.deliver(Throttled, status=429, retry_after=60.0)
    found = window.scrape()
    assert (found["vcc_valve_open",], found["vcc_valve_closed", "throttled"]) == (0, 1)
    assert 30 < found["vcc_valve_opens_in_seconds",] <= 60
    assert found["vcc_rate_calls_per_second", "learned"] >= gate.LEAST_RATE
    with window.store.engine.begin() as conn:
        gate.pause(conn, "lunch")
    found = window.scrape()
    assert (found["vcc_valve_closed", "paused"], found["vcc_valve_closed", "throttled"]) == (1, 0)
    assert found["vcc_valve_opens_in_seconds",] == 0


def test_no_counter_goes_down_whatever_is_rolled_up_and_pruned(window: Window) -> None:
    """Calls are counted since ever: added up by the sweep, deleted by the prune, they count the same."""
    window.store.record(dispatch("a"), dispatch("b"))
    window.store.deliver(seconds=0.1)
    before = window.scrape()
    window.store.run("update invocations set started_at = now() - interval '1 day'")
    tallies.roll(window.store.engine, 90.0)
    window.store.run("delete from invocations")
    after = window.scrape()
    counted = {key for key in before if key[0].startswith("vcc_call")}
    assert {key: after[key] for key in counted} == {key: before[key] for key in counted}
    assert before["vcc_calls_interactions_total", "accepted"] == 2


def test_what_waits_at_the_doors_shows_with_its_age(window: Window, redis_url: str) -> None:
    """The stream's entries, the inbox's rows and Celery's messages count until they are taken in."""
    assert window.scrape()["vcc_stream_oldest_seconds",] == window.scrape()["vcc_inbox_oldest_seconds",] == 0
    with Client(redis_url) as vcc:
        vcc.dispatch("a", "R")
    window.redis.lpush("deliver", "m")
    window.store.run(
        "insert into inbox (job, created_at) values ('{}', now() - interval '1 hour'), ('{}', now())"
    )
    found = window.scrape()
    assert found["vcc_stream_entries",] == found["vcc_queue_messages", "deliver"] == 1
    assert found["vcc_inbox_rows",] == 2
    assert found["vcc_inbox_oldest_seconds",] >= 3600
    assert found["vcc_queue_messages", "intake"] == 0


def test_an_import_that_runs_shows_and_one_not_heard_of_is_silent(window: Window) -> None:
    """Those that ended do not count."""
    with window.store.engine.begin() as conn:
        imports.begin(conn, "cli:eve", "a.mbox", "R")
        imports.begin(conn, "cli:eve", "b.mbox", "R")
        imports.end(conn, imports.begin(conn, "cli:eve", "c.mbox", "R"), "done")
    window.store.run("update imports set updated_at = now() - interval '1 minute' where source = 'b.mbox'")
    found = window.scrape()
    assert (found["vcc_imports", "running"], found["vcc_imports", "silent"]) == (1, 1)


def test_workers_show_by_what_they_consumed_and_those_long_gone_do_not(window: Window) -> None:
    """A field that no worker wrote changes nothing."""
    now = window.redis.time()[0]
    told = {"upkeep w@a": now - 60, "upkeep w@b": now - 2 * 86_400, "odd": now, "upkeep w@c": "never"}
    window.redis.hset(KEY, mapping=told)
    found = {key[1:]: value for key, value in window.scrape().items() if "silence" in key[0]}
    assert list(found) == [("upkeep", "w@a")]
    assert 60 <= found["upkeep", "w@a"] < 600


def test_everything_in_the_list_shows_and_nothing_else(window: Window) -> None:
    """Once there is something of each, the answer has exactly the metrics of the list."""
    window.redis.hset(KEY, "upkeep w@a", window.redis.time()[0])
    window.store.run("update gate set rate = 3, slowed_at = now()")
    found = text_string_to_metric_families(window.client.get("/metrics").text)
    shown = {family.name + ("_total" if family.type == "counter" else ""): family.type for family in found}
    assert shown == {metric.name: metric.kind for metric in metrics.LIST}


def test_with_rabbitmq_its_queues_are_left_to_it(database_url: str, redis_url: str) -> None:
    """Redis has none of Celery's messages then, and nought would be a lie."""
    with opened(database_url) as engine:
        window = Window(Store(engine), redis_url, broker_url=SecretStr("amqp://a:b@c:1/d"))
        assert not [key for key in window.scrape() if key[0] == "vcc_queue_messages"]


def test_redis_away_leaves_the_tables_half(window: Window, redis_server: Server) -> None:
    """The answer says which half is missing, and /readyz does."""
    redis_server.kill()
    found = window.scrape()
    assert (found["vcc_up", "database"], found["vcc_up", "redis"]) == (1, 0)
    assert found["vcc_valve_open",] == 1
    assert ("vcc_stream_entries",) not in found
    answer = window.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"database": "ready", "redis": "away"})


def test_a_frozen_database_leaves_redis_half(
    window: Window, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it for long; thawed it is asked anew."""
    monkeypatch.setattr(metrics, "PATIENCE", 1.0)
    monkeypatch.setattr(health, "PATIENCE", 1.0)
    assert window.scrape()["vcc_up", "database"] == 1
    postgres_server.freeze()
    try:
        found = window.scrape()
        assert (found["vcc_up", "database"], found["vcc_up", "redis"]) == (0, 1)
        assert found["vcc_queue_messages", "intake"] == 0
        assert window.client.get("/readyz").json() == {"database": "silent", "redis": "ready"}
    finally:
        postgres_server.thaw()
    monkeypatch.undo()
    until(lambda: window.scrape()["vcc_up", "database"] == 1)


def test_a_database_that_is_not_migrated_is_not_ready(window: Window) -> None:
    """It is in /readyz only: the process itself is alive."""
    assert window.client.get("/readyz").json() == {"database": "ready", "redis": "ready"}
    window.store.run("update alembic_version set version_num = '0001'")
    answer = window.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"database": "unmigrated", "redis": "ready"})
    assert window.client.get("/healthz").status_code == 200


def test_without_a_token_it_answers_this_machine_only(window: Window) -> None:
    """Whoever comes from elsewhere is told the setting."""
    far = TestClient(window.client.app, client=("192.0.2.1", 50000))
    answer = far.get("/metrics")
    assert answer.status_code == 403
    assert "VCC_METRICS_TOKEN" in answer.text
    assert window.client.get("/metrics").status_code == 200


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic sesame", "Bearer ", "sesame", "Bearer \xff"])
def test_with_a_token_nobody_gets_in_without_it(database_url: str, redis_url: str, given: str | None) -> None:
    """Not from this machine either."""
    with opened(database_url) as engine:
        window = Window(Store(engine), redis_url, metrics_token=SecretStr("sesame"))
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        assert window.client.get("/metrics", headers=headers).status_code == 401
        far = TestClient(window.client.app, client=("192.0.2.1", 50000))
        assert far.get("/metrics", headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_no_word_of_a_customers_is_in_the_metrics(window: Window) -> None:
    """Nor a route, a reason or a name: nothing that a producer, an operator or the API has written."""
    planted = "Planted-word"
    window.store.record(dispatch("Planted-word", route="Planted-word", provider="Planted-word"))
    window.store.deliver(Refused, status=400, error=planted)
    with window.store.engine.begin() as conn:
        gate.pause(conn, planted)
        audit.note(conn, planted, planted, planted)
        imports.begin(conn, planted, planted, planted)
    assert planted not in window.client.get("/metrics").text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus, for promtool")
def test_promtool_finds_nothing_amiss(window: Window) -> None:
    """The answer keeps to Prometheus' own rules."""
    window.redis.hset(KEY, "upkeep w@a", window.redis.time()[0])
    window.store.run("update gate set rate = 3, slowed_at = now()")
    said = subprocess.run(
        ["promtool", "check", "metrics"],
        input=window.client.get("/metrics").content, capture_output=True, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
