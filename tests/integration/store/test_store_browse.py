"""What the page shows: a bounded search by filter, one interaction, failures, the line, imports, rejections."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.factories import Store, dispatch, release
from worker.domain.outcome import Refused, Throttled, Unknown
from worker.store import anchors, browse, imports
from worker.store.browse import Filter, Page
from worker.store.record import Rejection, reject

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def far(store: Store) -> Store:
    """Give a store of 30,000 finished lifecycles, one a second with gaps between their ids, a few of them rare."""
    store.run(
        """insert into interactions (id, externalid, state, lane, route, provider, dispatch_requestid,
            release_requestid, release_requested_at, released_at, dispatched_at, created_at, last_error)
        overriding system value
        select 3 * n, 'e' || n, 'released', 'live', case when n %% 4000 = 1 then 'Rare' else 'R' end,
            case when n = 17 then 'P' else '' end, 'd' || n, 'r' || n, now(), now(), now(),
            %(t0)s::timestamptz + n * interval '1 second', case when n %% 5000 = 2 then 'Bad_%% Word' || n end
        from generate_series(1, 30000) n""",
        t0=T0,
    )
    store.run("alter table interactions alter column id restart with 100000")
    return store


def ask(store: Store, query: Any, *args: Any, **options: Any) -> Any:
    """Ask one of the queries."""
    with store.engine.connect() as conn:
        return query(conn, *args, **options)


def pages(store: Store, wanted: Filter, **options: Any) -> Iterator[Page]:
    """Turn the pages until there are no more."""
    before = None
    while True:
        page: Page = ask(store, browse.page, wanted, before=before, **options)
        yield page
        if page.before is None:
            return
        assert before is None or page.before < before
        before = page.before


def found(store: Store, wanted: Filter, **options: Any) -> list[str]:
    """Tell the externalids on all the pages, in their order."""
    return [row["externalid"] for page in pages(store, wanted, **options) for row in page.rows]


def test_newest_first(far: Store) -> None:
    """Without a filter the newest come first, in full pages, with all that a list shows."""
    first: Page = ask(far, browse.page, Filter(), limit=3)
    assert [row["id"] for row in first.rows] == [90_000, 89_997, 89_994]
    assert list(first.rows[0]) == browse.SHOWN
    assert (first.before, first.complete) == (89_994, True)
    second: Page = ask(far, browse.page, Filter(), limit=3, before=first.before)
    assert [row["externalid"] for row in second.rows] == ["e29997", "e29996", "e29995"]


def test_what_is_far_back(far: Store) -> None:
    """However little time there is for a page, going on finds everything, once, and says how far it has looked."""
    turned = list(pages(far, Filter(route="Rare"), seconds=0, limit=3))
    assert [row["id"] for page in turned for row in page.rows] == [3 * n for n in range(28001, 0, -4000)]
    early = next(page for page in turned if not page.complete)
    assert early.looked == browse.FIRST_LOOK
    assert early.reached is not None
    assert early.reached <= T0 + timedelta(seconds=29_001)
    assert found(far, Filter(route="Rare"), limit=3) == [f"e{n}" for n in range(28001, 0, -4000)]
    assert found(far, Filter(route="None")) == []


FOUND = [
    (Filter(provider="P"), ["e17"]),
    (Filter(externalid="e18"), ["e18"]),
    (Filter(externalid="E18"), []),
    (Filter(externalid="e18", state="failed"), []),
    (Filter(error="d_% wORD2"), ["e25002", "e20002", "e2"]),
    (Filter(error="word", created_before=T0 + timedelta(seconds=5_002)), ["e2"]),
    (Filter(error="%"), [f"e{n}" for n in range(25_002, 0, -5_000)]),
    (Filter(lane="backlog"), []),
    (Filter(lane="live", created_after=T0 + timedelta(seconds=29_999)), ["e30000", "e29999"]),
    (Filter(created_before=T0 + timedelta(seconds=2)), ["e1"]),
    (Filter(created_after=T0 + timedelta(days=9)), []),
    (Filter(created_before=T0), []),
]


def test_filters(far: Store) -> None:
    """Each filter finds what fits it and nothing else."""
    for wanted, expected in FOUND:
        assert found(far, wanted) == expected, wanted


def test_what_nobody_can_mean(store: Store) -> None:
    """States, ids and texts that can't be in the table find nothing, and no error."""
    store.record(dispatch())
    reject(store.engine, "door", [Rejection(b"x", "no")])
    for wanted in (Filter(state="gone"), Filter(state=""), Filter(error="\0"), Filter(externalid="e\0")):
        assert ask(store, browse.page, wanted) == Page()
    for identity in (2**63, 10**30, 0, -1, -(10**30)):
        assert ask(store, browse.one, identity, words=True) is None
        assert ask(store, browse.rejection, identity, words=True) is None
        size = 1 if identity > 0 else 0
        assert len(ask(store, browse.page, Filter(), before=identity).rows) == size
        assert len(ask(store, browse.rejected, identity)) == size


def test_only_what_has_an_error_is_looked_at(far: Store) -> None:
    """By the text of an error, only the rows that have one are looked at."""
    assert ask(far, browse.page, Filter(error="word")).looked == 6


def test_age_bounds_what_is_looked_at(far: Store) -> None:
    """Of a minute long ago little more than the minute is looked at."""
    noon = T0 + timedelta(seconds=10_000)
    page: Page = ask(
        far, browse.page, Filter(created_after=noon, created_before=noon + timedelta(minutes=1), route="R")
    )
    assert len(page.rows) == 50
    assert page.looked <= 60 + 2 * anchors.SLACK


def test_bounds_at_equal_times(store: Store) -> None:
    """Of many rows of one moment all are within the bounds of that moment; an empty table has none to miss."""
    moment = timedelta(microseconds=1)
    around = Filter(created_after=T0, created_before=T0 + moment)
    assert ask(store, browse.page, around).rows == []
    store.record(*(dispatch(f"e{n}") for n in range(40)))
    store.run("update interactions set created_at = %(t0)s", t0=T0)
    assert len(found(store, around, limit=7)) == 40
    assert found(store, Filter(created_before=T0)) == found(store, Filter(created_after=T0 + moment)) == []


def test_row_of_a_long_transaction(store: Store) -> None:
    """A row whose time is behind those before it, since its transaction took long, is found by its time."""
    store.record(*(dispatch(f"e{n}") for n in range(9)))
    store.run("update interactions set created_at = %(t0)s + id * interval '1 minute'", t0=T0)
    store.run("update interactions set created_at = %(t0)s - interval '30 seconds' where id = 9", t0=T0)
    assert found(store, Filter(created_before=T0)) == ["e8"]
    store.run("update interactions set created_at = %(t0)s + interval '9 minutes' where id = 1", t0=T0)
    assert found(store, Filter(created_after=T0 + timedelta(minutes=9))) == ["e0"]


STATES = {
    "pending": ["again", "b", "a"],
    "dispatched": ["d", "c"],
    "releasing": ["e"],
    "failed": ["f"],
    "awaiting_dispatch": ["held"],
    "waiting": ["e"],
    "cancelled": ["g"],
    "ended": ["again"],
    "released": ["h"],
    "orphaned": [],
}


@pytest.fixture
def varied(store: Store) -> Store:
    """Give a store with lifecycles in almost every state."""
    store.record(*(dispatch(name) for name in ("c", "d", "e", "h", "again")))
    store.deliver()
    store.record(release("h"))
    store.deliver()
    store.record(dispatch("f"))
    store.deliver(Refused, error="no such route")
    store.record(release("e"), dispatch("a"), dispatch("b"), dispatch("g"), release("g"), release("held"))
    store.record(dispatch("e"), dispatch("again", again=True))
    return store


@pytest.mark.parametrize("few", [0, anchors.FEW])
def test_each_state(varied: Store, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each state finds its own, whether its index holds few rows or too many to sort."""
    monkeypatch.setattr(anchors, "FEW", few)
    for state, names in STATES.items():
        assert found(varied, Filter(state=state)) == names, state
        assert found(varied, Filter(state=state), limit=1) == names, state


def test_planner_is_left_as_it_was(varied: Store) -> None:
    """What a search tells the planner holds for the search alone, not for what follows in its transaction."""
    with varied.engine.connect() as conn:
        for state in STATES:
            browse.page(conn, Filter(state=state))
        assert {conn.exec_driver_sql(f"show enable_{what}").scalar() for what in ("bitmapscan", "sort")} == {
            "on"
        }


def test_while_rows_come_and_go(varied: Store) -> None:
    """What stays within the filter is found once, whatever is recorded, ends or changes its state between pages."""
    varied.record(*(dispatch(f"p{n:02}") for n in range(20)))
    seen: list[str] = []
    for number, page in enumerate(pages(varied, Filter(state="pending"), limit=2)):
        seen += [row["externalid"] for row in page.rows]
        varied.record(dispatch(f"new{number}"))
        varied.run(
            "update interactions set due_at = now() - random() * interval '1 day' where due_at is not null"
        )
        varied.record(release(seen[-1]))  # one that has been shown is cancelled
    assert seen == [f"p{n:02}" for n in range(19, -1, -1)] + STATES["pending"]


def test_held_has_no_time(store: Store) -> None:
    """What a held route keeps back has no time at which it is due, and is told as held."""
    store.record(dispatch())
    store.run("update interactions set due_at = 'infinity'")
    assert ask(store, browse.page, Filter()).rows[0]["due_at"] is None
    row = ask(store, browse.one, 1, words=False)
    assert (row["due_at"], row["held"]) == (None, True)


# --- one interaction ------------------------------------------------------------------------------


def test_one(store: Store) -> None:
    """One interaction is told with every call that carried it: action, outcome, status, time, the API's words."""
    store.record(dispatch(linkeddata=[{"type": "name", "value": "Secret"}]), dispatch("other"))
    store.deliver(Throttled, status=429, error="slow down", body="Secret answer", seconds=0.25)
    store.run("update gate set closed_until = null, reason = null, probe_until = null")
    store.make_due()
    store.deliver(status=200, seconds=0.5)
    store.record(release())
    store.claim()
    told = ask(store, browse.one, 1, words=True)
    calls = [moment["call"] for moment in told["timeline"] if moment["call"]]
    assert calls[0] == {
        "id": 1,
        "action": "dispatch",
        "interactions": 2,
        "outcome": "throttled",
        "status": 429,
        "seconds": 0.25,
        "bytes": 100,
        "error": "slow down",
        "answer": "Secret answer",
    }
    assert [(call["action"], call["interactions"], call["outcome"]) for call in calls[1:]] == [
        ("dispatch", 2, "accepted"),
        ("release", 1, None),
    ]
    assert (told["whole"], told["held"], told["others"]) == (True, False, [])
    assert told["request"]["linkeddata"][0]["value"] == "Secret"
    assert not {"call", "unsure"} & told.keys()


def test_one_without_words(store: Store) -> None:
    """Who may not see what customers wrote is told everything else."""
    store.record(dispatch(linkeddata=[{"type": "name", "value": "Secret"}]))
    store.deliver(Unknown, body="Secret answer", error="HTTP 500")
    told = ask(store, browse.one, 1, words=False)
    assert "Secret" not in str(told)
    assert "HTTP 500" in str(told)
    assert "request" not in told
    assert ask(store, browse.one, 2, words=False) is None


def test_others_of_its_externalid(store: Store) -> None:
    """Other lifecycles of the externalid are named, the newest first, whatever their state."""
    for requestid in ("d1", "d2"):
        store.record(dispatch(requestid=requestid, again=True))
        store.deliver()
    store.record(release(), dispatch(requestid="d3"))
    told = ask(store, browse.one, 1, words=False)
    assert [(identity, state) for identity, state, _ in told["others"]] == [(3, "waiting"), (2, "releasing")]


def test_long_stories_end_with_the_newest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many calls and remarks the newest are told, and that there may be more."""
    monkeypatch.setattr(browse, "TOLD", 3)
    store.record(dispatch())
    for number in range(5):
        store.run("insert into invocations (provider, ids, outcome) values ('', '{1}', 'unknown')")
        store.run(
            "insert into events (interaction_id, event, detail) values (1, 'duplicate', %(n)s)", n=str(number)
        )
    told = ask(store, browse.one, 1, words=False)
    assert [moment["call"]["id"] for moment in told["timeline"] if moment["call"]] == [3, 4, 5]
    assert [m["detail"] for m in told["timeline"] if m["event"] == "duplicate"] == ["2", "3", "4"]
    assert told["whole"] is False


# --- at a glance ----------------------------------------------------------------------------------


def test_failures(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given-up interactions are grouped by state and error, the most frequent first, with the newest of each."""
    assert ask(store, browse.failures) == browse.Failures([], 0, True)
    for name, error in (("a", "no route"), ("b", "bad data"), ("c", "no route")):
        store.record(dispatch(name))
        store.deliver(Refused, error=error)
    store.record(dispatch("d"))
    store.deliver()
    store.record(release("d"))
    store.deliver(Refused, error="no route")
    groups = [
        {"state": "failed", "error": "no route", "count": 2, "newest_id": 3},
        {"state": "release_failed", "error": "no route", "count": 1, "newest_id": 4},
        {"state": "failed", "error": "bad data", "count": 1, "newest_id": 2},
    ]
    assert ask(store, browse.failures) == browse.Failures(groups, 4, True)
    monkeypatch.setattr(browse, "GIVEN_UP", 1)
    newest = ask(store, browse.failures)
    assert newest.all is False
    assert newest.looked == 1


def test_due_by_lane(store: Store) -> None:
    """Each lane, and the releases, tell how long the oldest of theirs has been due."""
    nothing = {lane: {"oldest_seconds": None} for lane in ("release", "live", "backlog")}
    assert ask(store, browse.due_by_lane) == nothing
    store.record(dispatch("r"))
    store.deliver()
    store.record(release("r"), dispatch("l"), dispatch("b", lane="backlog"), dispatch("p", provider="P"))
    for name, seconds in (("r", 10), ("l", 100), ("p", 200), ("b", 1_000)):
        store.run(
            """update interactions set due_at = now() - %(s)s * interval '1 second',
                updated_at = now() - %(s)s * interval '1 second' where externalid = %(e)s""",
            s=seconds, e=name,
        )  # fmt: skip
    lanes = ask(store, browse.due_by_lane)
    oldest = {lane: round(told["oldest_seconds"], -1) for lane, told in lanes.items()}
    assert oldest == {"release": 10, "live": 200, "backlog": 1_000}


def test_imports(store: Store) -> None:
    """Running imports tell how far they are, those just ended what they came to; the silent ones are marked."""
    with store.engine.begin() as conn:
        running, over, silent, old = (imports.begin(conn, "cli:me", f"{n}.mbox", "R") for n in range(4))
        imports.report(conn, running, 0.5, 10, 7, 2, 1)
        for identity in (over, old):
            imports.end(conn, identity, "done")
        imports.end(conn, over, "a second word")
        imports.report(conn, over, 1.0, 9, 9, 9, 9)
    store.run("update imports set updated_at = updated_at - interval '31 seconds' where id = %(i)s", i=silent)
    store.run("update imports set updated_at = updated_at - interval '1 hour' where id = %(i)s", i=old)
    # many small ones, long over, that were begun later
    store.run(
        """insert into imports (who, source, ended_at, updated_at, outcome)
        select 'cli:me', n::text, now() - interval '1 hour', now() - interval '1 hour', 'done'
        from generate_series(1, 200) n"""
    )
    told = {row["id"]: row for row in ask(store, browse.running_imports)}
    assert list(told) == [silent, over, running]
    assert {identity for identity, row in told.items() if row["silent"]} == {silent}
    assert (told[over]["outcome"], told[over]["read"], told[running]["share"]) == ("done", 0, 0.5)
    assert [told[running][name] for name in ("read", "new", "duplicate", "rejected")] == [10, 7, 2, 1]


def test_rejections_by_page(store: Store) -> None:
    """Rejected jobs come the newest first; what came is shown only with the words, byte by byte."""
    reject(store.engine, "stream", [Rejection(b"\x00\xff<x>", f"bad {n}", f"p{n}") for n in range(3)])
    first, second = ask(store, browse.rejected, limit=2)
    assert [first["reason"], second["reason"]] == ["bad 2", "bad 1"]
    assert [row["reason"] for row in ask(store, browse.rejected, second["id"])] == ["bad 0"]
    assert ask(store, browse.rejection, 1, words=True)["job"] == b"\x00\xff<x>"
    assert "job" not in ask(store, browse.rejection, 1, words=False)
    assert ask(store, browse.rejection, 9, words=True) is None
