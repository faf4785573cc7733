"""What time and operators change: holds, clocks, lost calls, retries, pruning, and the sweep that does it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from tests.factories import Store, dispatch, release, settings
from worker.domain.outcome import Refused, Unknown
from worker.store import expiry, prune
from worker.store.retry import Which, count, retry
from worker.upkeep.sweep import sweep


def swept(store: Store, **given: Any) -> tuple[dict[str, int], int]:
    """Sweep once; what changed, and how often a delivery was woken."""
    woken: list[None] = []
    changed = sweep(store.engine, settings(**given), lambda: woken.append(None))
    return changed, len(woken)


def failed(store: Store, *externalids: str, **fields: Any) -> None:
    """Have dispatches refused, each alone."""
    for externalid in externalids:
        store.record(dispatch(externalid, **fields))
        store.settle(store.claim(limit=1), Refused, error="no")


def test_quiet_night(store: Store) -> None:
    """Where nothing is due the sweep wakes nobody and changes nothing."""
    store.record(dispatch(), release("other"))
    store.deliver()
    assert swept(store) == ({"orphaned": 0, "given up": 0, "let go": 0, "lost calls": 0}, 0)


def test_parked_rows_of_a_route_held_no_more(store: Store) -> None:
    """Rows parked while their route was let go are let go by the next sweep; those of a held route stay."""
    store.record(*(dispatch(f"{route}{i}", route=route) for route in ("Gone", "Held") for i in range(3)))
    store.run("update interactions set due_at = 'infinity'")
    store.run("insert into routes (route, held_at) values ('Held', now())")
    assert swept(store)[0]["let go"] == 3
    due = store.all("select route, due_at <= now() from interactions order by id")
    assert due == [("Gone", True)] * 3 + [("Held", False)] * 3


def test_what_is_due_is_woken(store: Store) -> None:
    """A row that nobody was woken for is found by the sweep."""
    store.record(dispatch())
    assert swept(store)[1] == 1


def test_hold_expires(store: Store) -> None:
    """A held release whose dispatch did not come within the grace period is orphaned, and not before."""
    store.record(release("a"), grace=1e-6)
    store.record(release("b"))
    assert swept(store)[0]["orphaned"] == 1
    row = store.row("a")
    assert (row.state, row.reason, row.due_at) == (
        "orphaned",
        "no dispatch came within the grace period",
        None,
    )
    assert store.row("b").state == "awaiting_dispatch"
    assert store.verdicts(dispatch("a")) == ["opened"]


def test_hold_by_name_expires_beside_a_waiting_one(store: Store) -> None:
    """A hold that expires beside an open lifecycle starts nothing that waits for that one."""
    store.record(dispatch(requestid="d1"))
    store.deliver()
    store.record(release(dispatch_requestid="never"), grace=1e-6)
    store.record(release(), dispatch(requestid="d2"))
    assert swept(store)[0]["orphaned"] == 1
    assert store.states() == ["releasing", "orphaned", "waiting"]
    store.deliver()
    assert store.states() == ["released", "orphaned", "pending"]


def test_many_holds_expire_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep goes on until no batch is full."""
    monkeypatch.setattr(expiry, "BATCH", 3)
    store.record(*[release(f"e{n}") for n in range(7)], grace=1e-6)
    assert swept(store)[0]["orphaned"] == 7


def test_spent_rows_are_given_up(store: Store) -> None:
    """What was perhaps sent too long ago is given up, also where its worker died; what never was is not."""
    store.record(dispatch("spent"), dispatch("released"))
    store.claim(lease=1e-6)
    store.record(release("released"))
    store.record(dispatch("sure"))
    store.run("update interactions set first_sent_at = now() - interval '2 days' where call is not null")
    assert swept(store)[0]["given up"] == 2
    assert (store.row("spent").state, store.row("sure").state) == ("failed", "pending")
    row = store.row("released")
    assert (row.state, row.is_due, row.unsure, row.first_sent_at) == ("releasing", True, [], None)
    assert store.row("spent").unsure == [1]


def test_assumed_ended(store: Store) -> None:
    """Interactions that nobody released end after the time that is set, and only where one is set."""
    store.record(dispatch())
    store.deliver()
    store.run("update interactions set dispatched_at = now() - interval '1 hour'")
    assert "assumed ended" not in swept(store)[0]
    assert swept(store, assume_ended_after=3_700.0)[0]["assumed ended"] == 0
    assert swept(store, assume_ended_after=3_500.0)[0]["assumed ended"] == 1
    assert (store.row().state, store.row().reason) == ("ended", "assumed ended")
    assert store.verdicts(release()) == ["releasing"]


def test_lost_calls(store: Store) -> None:
    """A call whose worker was not heard of is called lost when its lease has passed."""
    store.record(dispatch())
    store.claim()
    assert swept(store)[0]["lost calls"] == 0
    store.run("update invocations set started_at = now() - interval '91 seconds'")
    assert swept(store)[0]["lost calls"] == 1
    assert store.all("select outcome, error from invocations") == [
        ("lost", "the worker was not heard of again")
    ]


def test_locked_rows_are_left_to_the_next_sweep(store: Store) -> None:
    """A sweep waits for nobody."""
    store.record(release("a"), release("b"), grace=1e-6)
    with store.engine.connect() as conn:
        conn.exec_driver_sql("select from interactions where externalid = 'a' for update")
        assert expiry.expire_holds(store.engine) == 1
        conn.rollback()
    assert expiry.expire_holds(store.engine) == 1


SOON, DAY = datetime.now(UTC) + timedelta(hours=1), timedelta(days=1)

# --- retry ----------------------------------------------------------------------------------------


def counted(store: Store, which: Which) -> int:
    """Tell how many rows a retry would take up."""
    with store.engine.connect() as conn:
        return count(conn, which)


def test_retry_of_the_refused(store: Store) -> None:
    """A refused dispatch goes again under a fresh requestid; the old one's repeat still changes nothing."""
    first = dispatch(requestid="d")
    store.record(first)
    store.deliver(Refused)
    assert retry(store.engine, Which()) == 1
    row = store.row()
    assert (row.state, row.is_due, row.attempts, row.last_error) == ("pending", True, 0, None)
    assert row.dispatch_requestid != "d"
    assert row.request == {"routingdata": {"interactiontype": "nonlive"}}
    assert store.verdicts(first) == ["repeated"]
    assert store.all("select event, detail from events") == [("retried", "by an operator")]
    assert store.deliver().rows[0].requestid == row.dispatch_requestid


def test_retry_of_the_unsure(store: Store) -> None:
    """What may have been processed goes again under the requestid that the API may know; its clock starts afresh."""
    store.record(dispatch(requestid="d"))
    store.deliver(Unknown)
    store.run("update interactions set first_sent_at = now() - interval '2 days', due_at = now()")
    swept(store)
    assert retry(store.engine, Which()) == 1
    row = store.row()
    assert (row.dispatch_requestid, row.unsure, row.first_sent_at) == ("d", [1], None)
    store.deliver()
    assert store.row().state == "dispatched"


def test_retry_of_a_release(store: Store) -> None:
    """A release that was refused is sent again."""
    store.record(dispatch(provider="P"))
    store.deliver()
    store.record(release(requestid="r"))
    store.deliver(Refused)
    assert retry(store.engine, Which()) == 0
    assert retry(store.engine, Which("release_failed")) == 1
    claimed = store.deliver()
    assert (claimed.provider, claimed.rows[0].action) == ("P", "release")
    assert claimed.rows[0].requestid != "r"


def test_without_its_words_nothing_is_sent(store: Store) -> None:
    """What customers wrote was taken out of a row: it is not sent again without it."""
    failed(store, "a", "b")
    store.run("update interactions set forgotten_at = now() where externalid = 'a'")
    assert counted(store, Which()) == retry(store.engine, Which(externalids=["a", "b"])) == 1
    assert (store.row("a").state, store.row("b").state) == ("failed", "pending")


@pytest.mark.parametrize(
    ("which", "names"),
    [
        (Which(), "abs"),
        (Which(route="S"), "s"),
        (Which(externalids=["a", "x"]), "a"),
        (Which(externalids=[]), ""),
        (Which(ids=[1, 3, 99]), "as"),
        (Which(ids=[]), ""),
        (Which(ids=[1, 0, -1, 2**63, 10**30]), "a"),
        (Which("no such state"), ""),
        (Which(error="\0"), ""),
        (Which(externalids=["a\0"]), ""),
        (Which(error="NO"), "abs"),
        (Which(error="%"), ""),
        (Which(lane="live", provider=""), "abs"),
        (Which(lane="backlog"), ""),
        (Which(provider="P"), ""),
        (Which(created_before=SOON, created_after=SOON - DAY), "abs"),
        (Which(created_before=SOON - DAY), ""),
        (Which(created_after=SOON), ""),
        (Which("release_failed"), ""),
        (Which("pending"), ""),
    ],
)
def test_which_are_meant(store: Store, which: Which, names: str) -> None:
    """A retry is narrowed by all that is given, and never touches what was not given up."""
    failed(store, "a", "b")
    failed(store, "s", route="S")
    store.record(dispatch("x"))
    before = store.row("x").updated_at
    assert counted(store, which) == len(names)
    assert retry(store.engine, which) == len(names)
    again = store.all(
        "select externalid from interactions where state = 'pending' and externalid <> 'x' order by 1"
    )
    assert "".join(name for (name,) in again) == names
    assert store.row("x").updated_at == before


def test_retry_takes_the_newest_lifecycle_only(store: Store) -> None:
    """A failed lifecycle that has a successor is history."""
    failed(store, "a")
    store.record(dispatch("a"))
    assert counted(store, Which()) == retry(store.engine, Which()) == 0


def test_retry_leaves_an_open_one_alone(store: Store) -> None:
    """Nor is one retried beside an older lifecycle that came to life again."""
    store.record(dispatch(requestid="d1"))
    old = store.claim()
    store.run("update interactions set state = 'failed', due_at = null, call = null")
    failed(store, "e")
    store.settle(old)
    assert store.states() == ["dispatched", "failed"]
    assert retry(store.engine, Which()) == 0


def test_retry_of_a_release_before_a_cancelled_dispatch(store: Store) -> None:
    """A release that failed is not history for a dispatch behind it that was never sent, nor for a hold."""
    store.record(dispatch())
    store.deliver()
    store.record(release(), dispatch(), release())
    store.deliver(Refused)
    store.record(release(dispatch_requestid="d"))
    assert store.states() == ["release_failed", "cancelled", "awaiting_dispatch"]
    assert retry(store.engine, Which("release_failed")) == 1


def test_retry_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is taken up, however many there are."""
    monkeypatch.setattr("worker.store.retry.BATCH", 2)
    store.run(
        """insert into interactions (externalid, state, route, dispatch_requestid)
        select 'e' || n, 'failed', 'R', 'd' || n from generate_series(1, 5) n"""
    )
    assert retry(store.engine, Which()) == 5
    assert store.counts() == {"pending": 5}


# --- prune ----------------------------------------------------------------------------------------


def test_prune(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over and old goes, batch by batch, with what was remembered of it; what is open stays."""
    monkeypatch.setattr(prune, "BATCH", 1_000_000)
    failed(store, "old", "young")
    store.record(dispatch("open"), dispatch("open"), dispatch("old"), release("old"))
    store.run("insert into rejections (door, reason, job) values ('x', 'x', 'x')")
    for change in (
        "update interactions set updated_at = now() - interval '2 days' where externalid <> 'young'",
        "update invocations set started_at = now() - interval '2 days' where id = 1",
        "update receipts set at = now() - interval '2 days'",
        "update rejections set at = now() - interval '2 days'",
        "insert into events (interaction_id, event, detail) select id, 'x', 'x' from interactions",
    ):
        store.run(change)
    for change in (
        "update tallied set upto = 2",
        "insert into tallies select now() - interval '2 days', 'x', 1, 1, 1, '{}'",
        "insert into tallies select now(), 'x', 1, 1, 1, '{}'",
        "insert into totals select outcome, calls, interactions, seconds, buckets from tallies limit 1",
        "insert into imports (who, source, updated_at) values ('x', 'x', now() - interval '2 days'), ('x', 'x', now())",
        """insert into sessions (token, name, stamp, expires_at) values ('x', 'x', 'x', now() - interval '1 second'),
            ('y', 'x', 'x', now() + interval '1 hour')""",
        "insert into audit (at, who, action) values (now() - interval '9 years', 'x', 'x')",
    ):
        store.run(change)
    gone = dict(prune.prune(store.engine, 86_400.0))
    assert gone == {
        "interactions": 2,
        "invocations": 1,
        "receipts": 1,
        "rejections": 1,
        "tallies": 1,
        "imports": 1,
        "sessions": 1,
    }
    left = "select (select count(*) from {}) + (select count(*) from {})"
    assert (store.one(left.format("totals", "audit")), store.one(left.format("sessions", "imports"))) == (
        2,
        2,
    )
    assert store.counts() == {"failed": 1, "pending": 1}
    assert store.one("select count(distinct interaction_id) from events") == 2
    assert set(dict(prune.prune(store.engine, 86_400.0)).values()) == {0}


def test_prune_goes_on_until_nothing_is_left(store: Store) -> None:
    """More than a batch goes in several."""
    store.run(
        """insert into receipts (requestid, externalid, action, at)
        select n, 'e', 'dispatch', now() - interval '2 days' from generate_series(1, 5001) n"""
    )
    assert [gone for table, gone in prune.prune(store.engine, 86_400.0) if table == "receipts"] == [5_000, 1]


# --- constraints ----------------------------------------------------------------------------------

ROW = {
    "externalid": "'e'",
    "state": "'pending'",
    "route": "'R'",
    "dispatch_requestid": "'d'",
    "due_at": "now()",
}


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"externalid": "''"}, "externalid_length"),
        ({"externalid": "repeat('é', 513)"}, "externalid_length"),
        ({"lane": "'fast'"}, "lane_known"),
        ({"cap": "0"}, "cap_positive"),
        ({"attempts": "-1"}, "attempts_counted"),
        ({"due_at": "null"}, "due_when_there_is_something_to_do"),
        ({"state": "'failed'"}, "due_when_there_is_something_to_do"),
        ({"call": "7"}, "in_flight_is_unsure"),
        (
            {"state": "'failed'", "due_at": "null", "call": "7", "unsure": "'{7}'"},
            "in_flight_only_in_work",
        ),
        ({"route": "null"}, "dispatch_complete"),
        ({"dispatch_requestid": "null"}, "dispatch_complete"),
        ({"state": "'releasing'"}, "release_complete"),
        ({"state": "'dispatched'", "due_at": "null"}, "dispatched_has_its_time"),
        (
            {
                "state": "'released'",
                "due_at": "null",
                "release_requestid": "'r'",
                "release_requested_at": "now()",
            },
            "released_has_its_time",
        ),
    ],
)
def test_database_refuses_what_can_not_be(store: Store, wrong: dict[str, str], name: str) -> None:
    """A row that no rule makes can't be written, whoever writes it."""
    row = {**ROW, **wrong}
    with pytest.raises(IntegrityError, match=name):
        store.run(f"insert into interactions ({', '.join(row)}) values ({', '.join(row.values())})")


def test_at_most_one_open_and_one_waiting(store: Store) -> None:
    """The database holds up that an externalid has one open lifecycle, and one that waits."""
    store.record(dispatch(requestid="d1"))
    for state, due in (("pending", "now()"), ("waiting", "null")):
        sql = "insert into interactions (externalid, state, route, dispatch_requestid, due_at) values "
        if state == "waiting":
            store.run(f"{sql} ('e', 'waiting', 'R', 'w', null)")
        with pytest.raises(IntegrityError, match=rf"interactions_{'open' if state == 'pending' else state}"):
            store.run(f"{sql} ('e', '{state}', 'R', 'x', {due})")
