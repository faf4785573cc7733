"""What docs/guarantees.md promises, where no other test would notice that the line which keeps it is gone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError

from tests.factories import GIVE_UP, LEASE, Store, dispatch, opened, release, settings
from tests.waiting import until
from worker import app as process
from worker import tasks
from worker.delivery.deliver import Bench, deliver_once
from worker.domain.outcome import Outcome
from worker.intake.importer import Importer, Outlets, Tally
from worker.intake.sources import open_source
from worker.settings import Settings
from worker.simulator.run import Background
from worker.stopping import Stopping
from worker.store.claim import claim
from worker.vonage.invoke import Api

WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Give a store that holds nothing yet."""
    with opened(database_url) as engine:
        yield Store(engine)


class Watched(Api):
    """The real API, but for a look at the tables, from a connection of its own, just before each call."""

    def __init__(self, given: Settings, store: Store) -> None:
        super().__init__(given)
        self._store = store
        self.seen: list[Any] = []

    def invoke(self, body: bytes) -> Outcome:
        """Look, then call."""
        self.seen += self._store.all(
            """select i.externalid, i.call = c.id as fenced, c.id = any (i.unsure) as unsure,
                i.due_at > now() as leased, c.outcome
            from invocations c join interactions i on i.id = any (c.ids) order by c.id"""
        )
        return super().invoke(body)


@pytest.fixture
def api(store: Store, simulator: Background) -> Iterator[Watched]:
    """Give the API, on the simulator."""
    urls = {"api_url": simulator.url, "auth_url": simulator.url}
    watched = Watched(settings(**urls, client_id="simulator", client_secret=SecretStr("simulator")), store)
    yield watched
    watched.close()


def bench(store: Store, api: Watched, **given: Any) -> Bench:
    """Give what a delivery works with."""
    return Bench(store.engine, api, settings(**given), lambda: None)


# --- nothing is lost ------------------------------------------------------------------------------


def test_dispatch_that_was_overtaken(store: Store) -> None:
    """A job beside which somebody else opens the externalid, unseen until its commit, is told as a duplicate."""
    with ThreadPoolExecutor(1) as pool:
        with store.engine.begin() as other:
            other.exec_driver_sql(
                """insert into interactions (externalid, state, route, dispatch_requestid, due_at)
                values ('e', 'pending', 'R', 'first', now())"""
            )
            told = pool.submit(store.verdicts, dispatch("e", "second"), dispatch("f"))
            until(lambda: store.one(WAITING))
        assert told.result(60) == ["duplicate", "opened"]
    assert store.counts() == {"pending": 2}
    assert store.one("select requestid from receipts") == "second"


def test_wake_up_that_was_lost(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that nobody ever hears keeps the next ones from being sent for two seconds, and no longer."""
    sent: list[Any] = []
    monkeypatch.setattr(tasks.deliver_due, "apply_async", lambda **options: sent.append(options))
    with redis.Redis.from_url(redis_url) as server:
        monkeypatch.setattr(process, "redis_client", lambda: server)
        tasks.wake()
        tasks.wake()
        left = server.pttl(tasks.WAKE_KEY)
        server.delete(tasks.WAKE_KEY)  # its time is over
        tasks.wake()
    assert len(sent) == 2
    assert 0 < left <= 2_000


# --- nothing happens twice ------------------------------------------------------------------------


def test_claim_is_committed_before_the_call(store: Store, api: Watched) -> None:
    """When a call goes out, everybody can see which rows it has, until when, and that it may have been processed."""
    store.record(dispatch("a"), dispatch("b"))
    assert deliver_once(bench(store, api))
    assert api.seen == [("a", True, True, True, None), ("b", True, True, True, None)]
    assert store.counts() == {"dispatched": 2}


@pytest.mark.parametrize("column", ["dispatch_requestid", "release_requestid"])
def test_requestid_is_one_row_s(store: Store, column: str) -> None:
    """The database holds up that a requestid is that of one dispatch, or of one release."""
    store.record(dispatch("a"), dispatch("b"))
    store.run(f"update interactions set {column} = 'same' where externalid = 'a'")
    with pytest.raises(IntegrityError, match=f"interactions_{column}"):
        store.run(f"update interactions set {column} = 'same' where externalid = 'b'")


# --- a release always finds its dispatch ----------------------------------------------------------


def test_release_that_meets_a_claim(store: Store) -> None:
    """A release that comes while its dispatch is being claimed waits for that, and is sent after it."""
    store.record(dispatch("e"))
    with ThreadPoolExecutor(1) as pool:
        with store.engine.begin() as claiming:
            claimed = claim(claiming, limit=1, budget=10_000, lease=LEASE, give_up_after=GIVE_UP, turn=1)
            told = pool.submit(store.verdicts, release("e"))
            until(lambda: store.one(WAITING))
        assert told.result(60) == ["remembered"]
    assert claimed is not None
    store.settle(claimed)
    assert [row.action for row in store.deliver().rows] == ["release"]


# --- live before backlog --------------------------------------------------------------------------


class Meanwhile(Stopping):
    """No order to stop; while a delivery sleeps, something happens, and the sleep is over."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens
        self.waits: list[float] = []

    def wait(self, seconds: float | None) -> bool:
        """Let it happen, if this is a sleep."""
        if seconds:
            self.waits.append(seconds)
            self._happens()
        return False


def test_release_that_comes_while_a_turn_is_waited_for(
    store: Store, api: Watched, simulator: Background
) -> None:
    """Under a rate rows are claimed when the turn has come: a release recorded meanwhile goes first."""
    meanwhile = Meanwhile(lambda: store.record(release("a")))
    slow = replace(bench(store, api, rate=1.0, max_requests=1), stopping=meanwhile)
    store.record(dispatch("a"))
    assert deliver_once(slow)
    store.record(dispatch("b"))
    assert deliver_once(slow)
    sent = [call["body"]["requests"][0] for call in simulator.calls()]
    assert [(one["action"], one["externalid"]) for one in sent] == [("dispatch", "a"), ("release", "a")]
    assert [0 < seconds <= 1 for seconds in meanwhile.waits] == [True]


# --- the doors ------------------------------------------------------------------------------------


def test_line_that_says_again_imported_twice(store: Store, tmp_path: Path) -> None:
    """A line's own word again counts for nothing in an import: run twice it dispatches nothing twice."""
    source = tmp_path / "jobs.jsonl"
    source.write_text('{"externalid": "e", "route": "R", "again": true}\n')
    importer = Importer(store.engine, settings(), Outlets(), lambda: None)
    tallies = [Tally(), Tally()]
    for tally in tallies:
        importer.run(open_source(source), tally)
        while (claimed := store.claim_any()) is not None:
            store.settle(claimed)
    assert [(tally.new, tally.duplicate) for tally in tallies] == [(1, 0), (0, 1)]
    assert store.states() == ["dispatched"]
