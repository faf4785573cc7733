"""Nothing that a page asks reads a large table as a whole: not in a new database, not in one that has been used."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from benchmarks.measures import pages
from benchmarks.plans import asked, whole_scans
from sqlalchemy import Connection

from tests.factories import Store, dispatch, release, rest
from tests.waiting import until
from worker import settings
from worker.domain.lifecycle import State
from worker.domain.outcome import Refused
from worker.ops.web import serving
from worker.ops.web.app import make
from worker.store import anchors, audit, browse, glance, tallies, vitals
from worker.store.browse import Filter

NOW = datetime.now(UTC)
FILTERS = [
    Filter(),
    *(Filter(state=state) for state in State),
    *(Filter(state=state, error="no", route="R") for state in State),
    Filter(route="R", provider="", lane="live"),
    Filter(error="no"),
    Filter(externalid="e1"),
    Filter(externalid="e1", state="failed"),
    Filter(created_after=NOW - timedelta(days=1), created_before=NOW + timedelta(days=1)),
]


@pytest.fixture(params=["new", "used", "emptied", "out of date"])
def kept(store: Store, request: pytest.FixtureRequest) -> Store:
    """Give a store with some interactions, of which the planner knows the truth, nothing, or something wrong."""
    state: str = request.param
    if state == "emptied":
        _use(store)
        store.run("analyze")
        store.run("truncate interactions, invocations, events, receipts, rejections, tallies, audit")
    if state == "out of date":
        store.run("analyze")
    if state != "new":
        _use(store)
    if state == "used":
        store.run("analyze")
    return store


def _use(store: Store) -> None:
    """Let interactions come and go, be refused, be in line."""
    store.record(*(dispatch(f"e{n}") for n in range(300)))
    store.deliver()
    store.record(*(release(f"e{n}") for n in range(250)))
    store.deliver()
    for n in range(3):
        store.record(dispatch(f"bad{n}"))
        store.deliver(Refused, error="no such route")
    store.record(*(dispatch(f"p{n}") for n in range(100)), release("held"))
    store.run(
        "insert into tallies select now() - n * interval '1 minute', 'x', 1, 1, 1, array_fill(1, '{10}') "
        "from generate_series(1, 500) n"
    )
    store.run("insert into rejections (door, reason, job) select 'x', 'x', 'x' from generate_series(1, 500)")


def ask_everything(conn: Connection) -> Iterator[Any]:
    """Ask all that the page asks."""
    for wanted in FILTERS:
        page = browse.page(conn, wanted, limit=5)
        yield browse.page(conn, wanted, limit=5, before=page.before)
    for identity in (
        conn.exec_driver_sql("select id from interactions order by id desc limit 3").scalars().all()
    ):
        yield browse.one(conn, identity, words=True)
    yield from (browse.failures(conn), browse.due_by_lane(conn), browse.running_imports(conn))
    yield from (browse.rejected(conn), browse.rejection(conn, 1, words=True))
    yield from (tallies.totals(conn), tallies.series(conn, 3_600, 60), tallies.series(conn, 86_400, 600))
    yield from (glance.glance(conn), vitals.vitals(conn), audit.newest(conn), audit.newest(conn, 9))


@pytest.mark.parametrize("few", [10, anchors.FEW])
def test_by_index(kept: Store, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the planner believes of the tables, it goes by an index that fits."""
    monkeypatch.setattr(anchors, "FEW", few)
    with asked(kept.engine) as told, kept.engine.connect() as conn:
        list(ask_everything(conn))
    assert len(told.statements) > 20
    assert told.whole() == {}


def test_what_counts_as_whole(store: Store) -> None:
    """A sequential scan is told, and so is an index that is read to its end; a limit or a condition bounds it."""
    _use(store)
    store.run("analyze")
    for statement, whole in (
        ("select * from interactions where route = 'S'", True),
        ("select * from interactions where id > 5 order by id", False),
        ("select * from interactions order by id desc limit 5", False),
        ("select * from (select * from interactions order by route) i order by id limit 5", True),
        ("select count(*) from interactions where state = 'pending'", True),
        ("select count(*) from (select from interactions order by id limit 5) i", False),
        ("select * from invocations where ids @> array[1::bigint]", False),
    ):
        with store.engine.connect() as conn:
            plan = conn.exec_driver_sql(f"explain (format json) {statement}").scalar_one()
        assert bool(list(whole_scans(plan[0]["Plan"]))) is whole, statement


def test_every_page_by_index(
    store: Store, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No view of the page itself reads a large table as a whole, nor do the metrics."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    pages.fill(store, share=1_000)
    deps = serving.deps(settings.load())
    try:
        until(lambda: deps.census.counts() is not None)
        with asked(deps.engine) as told:
            asyncio.run(pages.Timed(make(deps)).ask(pages.VIEWS, pages.ENDED // 1_000, times=1))
    finally:
        rest()
        deps.engine.dispose()
    assert len(told.statements) > 30
    assert told.whole() == {}
