"""Recording a backlog: the short cut comes to what the long way comes to, job by job."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.factories import GRACE, Store, dispatch, release, settings, together
from worker.domain.meeting import Ask, Met
from worker.intake.record import Incoming, take_in
from worker.store import backlog
from worker.store.backlog import record_backlog
from worker.store.record import record

Way = Callable[..., list[Met]]

LOOK = """select state, lane, route, provider, request, bytes, may_hold, release_requestid is not null,
    reason, due_at <= now(), due_at = 'infinity', attempts from interactions
    where externalid = %(e)s order by id"""


def imported(externalid: str, requestid: str, **fields: Any) -> Ask:
    """Make a dispatch of an import."""
    return dispatch(externalid, requestid, door="import", **fields)


def ended(store: Store, name: str) -> None:
    """Let it be over."""
    store.record(dispatch(name), release(name))


def failed(store: Store, name: str) -> None:
    """Let it be given up, VCC perhaps having it."""
    store.record(dispatch(name))
    store.run(
        "update interactions set state = 'failed', due_at = null, may_hold = true where externalid = %(e)s",
        e=name,
    )


def dispatched(store: Store, name: str) -> None:
    """Let it be dispatched."""
    store.record(dispatch(name))
    store.deliver()


def waiting(store: Store, name: str) -> None:
    """Let the next one wait for its release."""
    dispatched(store, name)
    store.record(release(name), dispatch(name))


KNOWN: dict[str, Callable[[Store, str], Any]] = {
    "nothing": lambda _store, _name: None,
    "ended": ended,
    "failed": failed,
    "pending": lambda store, name: store.record(dispatch(name)),
    "dispatched": dispatched,
    "waiting": waiting,
    "held": lambda store, name: store.record(release(name)),
    "held by name": lambda store, name: store.record(release(name, dispatch_requestid=f"d-{name}")),
    "requestid": lambda store, name: store.record(dispatch(f"other {name}", f"d-{name}")),
    "requestid of a release": lambda store, name: store.record(release(f"other {name}", f"d-{name}")),
    "receipt": lambda store, name: store.record(dispatch("x"), dispatch("x", f"d-{name}")),
    "held route": lambda store, name: store.run(
        "insert into routes (route, held_at) values (%(r)s, now())", r=f"R {name}"
    ),
}


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN.keys())
def test_what_is_known(store: Store, known: Callable[[Store, str], Any], again: bool) -> None:
    """Whatever is known already, a dispatch of a backlog comes to the same, and so does its neighbour."""
    assert came_to(store, record, "a", known, again) == came_to(store, record_backlog, "b", known, again)


def came_to(store: Store, way: Way, name: str, known: Callable[[Store, str], Any], again: bool) -> Any:
    """Record two dispatches, one of which is known; their verdicts and their rows."""
    known(store, name)
    fields: dict[str, Any] = {"lane": "backlog", "provider": "P", "again": again, "extra": {"smsplan": "S"}}
    asks = [
        imported(name, f"d-{name}", route=f"R {name}", **fields),
        imported(f"new {name}", f"n-{name}", **fields),
    ]
    met = way(store.engine, asks, grace=GRACE)
    rows = [[tuple(row) for row in store.all(LOOK, e=ask.job.externalid)] for ask in asks]
    return [(one.verdict, one.detail) for one in met], str(rows).replace(f"R {name}", "R")


@pytest.mark.parametrize(
    "asks",
    [
        [dispatch("e", "1", door="import"), dispatch("e", "2", door="import")],
        [dispatch("e", "1", door="import"), release("e", "2", door="import")],
        [release("e", "2", door="import"), dispatch("e", "1", door="import")],
        [dispatch("e", "1", door="import"), dispatch("f", "1", door="import")],
        [release("f", "2", door="import", dispatch_requestid="1"), dispatch("e", "1", door="import")],
        [dispatch("e", "1", door="import"), release("f", "2", door="import", dispatch_requestid="1")],
    ],
    ids=["twice", "and its release", "after its release", "one requestid", "named before", "named after"],
)
def test_jobs_of_one_chunk_that_meet(store: Store, asks: Sequence[Ask]) -> None:
    """Jobs of one chunk that are about each other are recorded in their order; among others, as alone."""
    found = record_backlog(store.engine, [*asks, imported("new", "n")], grace=GRACE)
    rows = store.all("select externalid, state, dispatch_requestid from interactions order by 1, 2, 3")
    store.run("truncate interactions, receipts, events")
    expected = record(store.engine, [*asks, imported("new", "n")], grace=GRACE)
    assert [one.verdict for one in found] == [one.verdict for one in expected]
    assert rows == store.all(
        "select externalid, state, dispatch_requestid from interactions order by 1, 2, 3"
    )


def test_new_ones_take_the_short_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is known, or is about its neighbour, is recorded the long way."""
    store.record(dispatch("old"))
    long: list[str] = []

    def noting(where: Any, asks: Sequence[Ask], *, grace: float) -> list[Met]:
        long.extend(ask.job.externalid for ask in asks)
        return record(where, asks, grace=grace)

    monkeypatch.setattr(backlog, "record", noting)
    names = ["new", "old", "twice", "another", "twice"]
    found = record_backlog(
        store.engine, [imported(name, f"d{n}") for n, name in enumerate(names)], grace=GRACE
    )
    assert [one.verdict for one in found] == ["opened", "duplicate", "opened", "opened", "duplicate"]
    assert long == ["old", "twice", "twice"]


def test_two_imports_of_one_backlog(store: Store) -> None:
    """Two imports of the same jobs at the same moment dispatch each once."""
    found = together(
        *(
            lambda way=way: record_backlog(
                store.engine, [imported(f"e{n}", f"{way}-{n}") for n in range(500)], grace=GRACE
            )
            for way in "ab"
        )
    )
    verdicts = [one.verdict for met in found for one in met]
    assert (verdicts.count("opened"), verdicts.count("duplicate")) == (500, 500)
    assert store.counts() == {"pending": 500}


def test_chunk_whose_commit_was_not_heard(store: Store) -> None:
    """A chunk that comes again, since its commit's answer was lost, counts its jobs as new."""
    asks = [dispatch(f"e{n}", f"d{n}", door="import", known=False) for n in range(3)]
    for _ in range(2):
        assert [one.verdict for one in record_backlog(store.engine, asks, grace=GRACE)] == ["opened"] * 3
    assert store.counts() == {"pending": 3}


def test_value_that_the_database_refuses(store: Store) -> None:
    """One job with a value that no rule foresaw is rejected alone, and its chunk is recorded."""
    store.run("alter table interactions add constraint unforeseen check (externalid <> 'bad')")
    batch = [Incoming({"externalid": name, "route": "R"}, f"d-{name}") for name in ("a", "bad", "c")]
    taken = take_in(store.engine, settings(), "import", batch, rules="import", known=False)
    assert [verdict for verdict, _ in taken.details] == ["opened", "rejected", "opened"]
    assert store.counts() == {"pending": 2}
