"""The order to stop: who sees it, and what a delivery does with what it has in hand."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from tests.factories import Store, dispatch, opened, settings
from tests.waiting import until
from worker.delivery import deliver as delivering
from worker.delivery.deliver import Bench, Load, carry, deliver
from worker.simulator.run import Background
from worker.stopping import Stopping
from worker.store import gate
from worker.vonage.invoke import Api


@pytest.fixture
def stopping() -> Stopping:
    """Give an order that nobody has given yet."""
    return Stopping()


@pytest.fixture
def woken() -> list[None]:
    """Give the list of those who were asked to go on."""
    return []


@pytest.fixture
def bench(database_url: str, simulator: Background, stopping: Stopping, woken: list[None]) -> Iterator[Bench]:
    """Give a bench that can be told to stop."""
    given = settings(
        api_url=simulator.url,
        auth_url=simulator.url,
        client_id="simulator",
        client_secret=SecretStr("simulator"),
        timeout=5.0,
    )
    with opened(database_url) as engine:
        api = Api(given)
        yield Bench(engine, api, given, lambda: woken.append(None), stopping)
        api.close()


def test_the_order_ends_every_sleep(stopping: Stopping) -> None:
    """Who sleeps is woken by the order, who sleeps later does not sleep at all."""
    assert not stopping.wait(0.01)
    threading.Timer(0.05, stopping.set).start()
    start = time.monotonic()
    assert stopping.wait(60)
    assert stopping.wait(60)
    assert stopping.is_set()
    assert time.monotonic() - start < 10


def test_a_forked_process_sees_the_order(stopping: Stopping) -> None:
    """The order reaches a process that was forked before it was given."""
    if (child := os.fork()) == 0:
        os._exit(0 if stopping.wait(60) else 1)
    stopping.set()
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_claimed_and_not_sent_is_given_back(
    bench: Bench, stopping: Stopping, woken: list[None], simulator: Background
) -> None:
    """Rows claimed before the order and not sent yet are due at once, without an attempt; somebody else is woken."""
    store = Store(bench.engine)
    store.record(*[dispatch(f"e-{i}") for i in range(3)])
    load = Load(store.passage(), store.claim(), time.monotonic(), fresh=True)
    stopping.set()
    assert carry(bench, load) is delivering.After.STOP
    assert simulator.book()["calls"] == 0
    found = store.all(
        "select call, attempts, unsure, first_sent_at, due_at <= now() as due from interactions"
    )
    assert [tuple(row) for row in found] == [(None, 0, [], None, True)] * 3
    assert store.one("select count(*) from invocations") == 0
    assert woken


def test_a_turn_that_is_waited_for_ends_with_the_order(
    bench: Bench,
    stopping: Stopping,
    woken: list[None],
    simulator: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A delivery that waits for its turn under VCC_RATE leaves at once; nothing is claimed, somebody else is woken."""
    store = Store(bench.engine)
    store.record(dispatch("e"))
    monkeypatch.setattr(gate, "SLOT_AHEAD", 600.0)
    store.run("update gate set next_slot = now() + interval '300 seconds'")
    threading.Timer(0.2, stopping.set).start()
    start = time.monotonic()
    assert deliver(replace(bench, settings=bench.settings.model_copy(update={"rate": 1.0}))) == 0
    assert time.monotonic() - start < 60
    assert simulator.book()["calls"] == 0
    assert store.row().attempts == 0
    assert woken


def test_a_probe_that_is_not_made_is_given_back(bench: Bench, stopping: Stopping) -> None:
    """A delivery that was to find out whether the valve may open leaves that to the next when told to stop."""
    store = Store(bench.engine)
    store.record(dispatch("e"))
    store.run("update gate set failures = 1, reason = 'unreachable', closed_until = now()")
    stopping.set()
    deliver(bench)
    passage = store.passage()
    assert passage.probe


def test_nothing_more_is_taken_after_a_call(bench: Bench, stopping: Stopping, simulator: Background) -> None:
    """A call that is under way is finished and settled, and the next one is not begun."""
    store = Store(bench.engine)
    store.record(*[dispatch(f"e-{i}") for i in range(4)])
    simulator.faults(delay={"by": 1.0})
    order = threading.Thread(target=lambda: until(lambda: simulator.book()["calls"]) and stopping.set())
    order.start()
    one = replace(bench, settings=bench.settings.model_copy(update={"max_requests": 1}))
    deliver(one, go_on=lambda: not stopping.is_set())
    order.join()
    assert store.counts() == {"dispatched": 1, "pending": 3}
    assert store.one("select count(*) from interactions where call is not null") == 0
