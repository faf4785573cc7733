"""Settling: rows, routes and providers after each outcome, once."""

from typing import Any

import pytest

from tests.factories import GIVE_UP, Store, dispatch, outcome, release, together
from worker.domain.outcome import (
    Accepted,
    Forbidden,
    Misdirected,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from worker.store.claim import Claim
from worker.store.gate import Passage
from worker.store.retry import let_go
from worker.store.settle import Bounds, settle

TIMES = ("created_at", "updated_at", "dispatched_at", "due_at")
OWN = ("id", "externalid", "dispatch_requestid", "release_requestid", "release_requested_at")


def plain(row: Any) -> dict[str, Any]:
    """Strip a row of what differs from row to row; times only say whether they are set."""
    found = {name: value for name, value in row._mapping.items() if name not in OWN}
    return {**found, **{name: found[name] is not None for name in TIMES}}


def test_both_ways_of_writing_come_to_the_same(store: Store) -> None:
    """Rows that were all simply accepted are written as those beside a remembered release are."""
    store.record(dispatch("fast"))
    claimed = store.claim()
    store.run("update interactions set cap = 3, last_error = 'old', reason = 'old'")
    store.settle(claimed)
    store.record(dispatch("slow"), dispatch("other"))
    claimed = store.claim()
    store.run("update interactions set cap = 3, last_error = 'old', reason = 'old' where externalid = 'slow'")
    store.record(release("other"))
    store.settle(claimed)
    assert plain(store.row("slow")) == plain(store.row("fast"))
    row = store.row("fast")
    assert (row.state, row.call, row.unsure, row.cap, row.last_error) == ("dispatched", None, [], None, None)
    assert row.first_sent_at is None
    other = store.row("other")
    assert (other.state, other.is_due, other.attempts) == ("releasing", True, 0)
    assert other.dispatched_at is not None


def test_call_is_on_record(store: Store) -> None:
    """The invocation keeps what came of it."""
    store.record(dispatch())
    store.settle(store.claim(), Refused, status=400, error="no route", body="{\0}", seconds=1.5)
    call = store.all("select * from invocations")[0]
    assert (call.outcome, call.status, call.error, call.seconds, call.bytes) == (
        "refused",
        400,
        "no route",
        1.5,
        100,
    )
    assert call.answer == "{\ufffd}"
    assert store.row().last_error == "no route"


def left_something_due(store: Store, claimed: Claim, kind: type[Outcome]) -> bool:
    """Settle a call; whether that made something due at once."""
    passage = Passage(store.epoch(), False, 0.0, 1, False)
    return settle(store.engine, claimed, passage, outcome(kind), 100, Bounds(GIVE_UP))


def test_tells_whether_something_is_due(store: Store) -> None:
    """A settle says whether there is something to send now: rows of its own, a release, a dispatch that waited."""
    store.record(dispatch("a"), dispatch("b"))
    assert left_something_due(store, store.claim(), Refused)
    assert not left_something_due(store, store.claim(limit=1), NotSent)
    assert not left_something_due(store, store.claim(), Refused)
    store.record(dispatch("c"))
    claimed = store.claim()
    store.record(release("c"))
    assert left_something_due(store, claimed, Accepted)
    store.record(dispatch("c"))
    claimed = store.claim()
    assert left_something_due(store, claimed, Accepted)
    assert not left_something_due(store, claimed, Accepted)
    assert not left_something_due(store, store.claim(), Accepted)


def test_row_of_another_call_is_not_made_due(store: Store) -> None:
    """What a late outcome leaves to the call that has it by now is nothing to send."""
    store.record(dispatch())
    first, _ = store.claim(lease=1e-6), store.claim()
    assert not left_something_due(store, first, NotSent)


def test_second_settle_does_nothing(store: Store) -> None:
    """An outcome counts once, whatever the second one says."""
    store.record(dispatch())
    claimed = store.claim()
    store.settle(claimed)
    store.settle(claimed, Refused)
    assert store.row().state == "dispatched"
    assert store.one("select outcome from invocations") == "accepted"


def test_lost_call_is_settled_all_the_same(store: Store) -> None:
    """A call that was called lost has its outcome when it comes."""
    store.record(dispatch())
    claimed = store.claim()
    store.run("update invocations set outcome = 'lost'")
    store.settle(claimed)
    assert store.row().state == "dispatched"


def test_no_fence_for_accepted(store: Store) -> None:
    """A late Accepted counts for a row that another call has by now; that call's own outcome then changes nothing."""
    store.record(dispatch())
    first, second = store.claim(lease=1e-6), store.claim()
    store.settle(first)
    assert store.row().state == "dispatched"
    store.settle(second, Refused)
    row = store.row()
    assert (row.state, row.last_error) == ("dispatched", None)


def test_accepted_twice(store: Store) -> None:
    """Where the API accepted both a send and its repeat, the second outcome changes nothing."""
    store.record(dispatch())
    first, second = store.claim(lease=1e-6), store.claim()
    store.settle(first)
    before = store.row()
    store.settle(second)
    assert store.row() == before


def test_dispatch_accepted_late_is_no_release(store: Store) -> None:
    """That the API took a dispatch twice says nothing about the release that is under way by then."""
    store.record(dispatch())
    first, second = store.claim(lease=1e-6), store.claim()
    store.settle(second)
    store.record(release())
    store.settle(first)
    assert store.row().state == "releasing"
    third = store.claim()
    store.run("update invocations set outcome = null where id = %(first)s", first=first.call)
    store.settle(first)
    assert (store.row().state, store.row().call) == ("releasing", third.call)


@pytest.mark.parametrize("kind", [Refused, NotSent, Throttled, Unknown])
def test_fence(store: Store, kind: type[Outcome]) -> None:
    """Any other late outcome leaves the row to the call that has it."""
    store.record(dispatch())
    first, second = store.claim(lease=1e-6), store.claim()
    store.settle(first, kind)
    row = store.row()
    assert (row.state, row.call, row.attempts, row.is_due) == ("pending", second.call, 2, False)
    assert row.unsure == [first.call, second.call][1 if kind.certain else 0 :]


def test_accepted_after_it_was_given_up(store: Store) -> None:
    """A row that was given up is dispatched when it turns out that it was accepted."""
    store.record(dispatch())
    claimed = store.claim()
    store.run("update interactions set state = 'failed', due_at = null, call = null")
    store.settle(claimed)
    assert store.row().state == "dispatched"


def test_accepted_after_a_newer_lifecycle_began(store: Store) -> None:
    """Where a newer lifecycle has the externalid the old one is over, and the new one knows what VCC may hold."""
    store.record(dispatch(requestid="d1"))
    claimed = store.claim()
    store.run("update interactions set state = 'failed', due_at = null, call = null, unsure = '{}'")
    store.record(dispatch(requestid="d2"))
    assert not store.row().may_hold
    store.settle(claimed)
    assert store.states() == ["ended", "pending"]
    assert store.row().may_hold


def test_refused_after_a_newer_lifecycle_began(store: Store) -> None:
    """Only what was accepted after all is something that VCC may hold."""
    store.record(dispatch(requestid="d1"))
    claimed = store.claim()
    store.run("update interactions set state = 'failed', due_at = null, call = null, unsure = '{}'")
    store.record(dispatch(requestid="d2"))
    store.settle(claimed, Refused)
    assert store.states() == ["failed", "pending"]
    assert not store.row().may_hold


def test_late_outcome_of_an_old_lifecycle_starts_no_waiting_one(store: Store) -> None:
    """A dispatch that waits for a release goes on waiting when something older is settled late."""
    store.record(dispatch(requestid="d1"))
    old = store.claim()
    store.run("update interactions set state = 'failed', due_at = null, call = null")
    store.record(dispatch(requestid="d2"))
    store.deliver()
    store.record(release(), dispatch(requestid="d3"))
    assert store.states() == ["failed", "releasing", "waiting"]
    store.settle(old)
    assert store.states() == ["ended", "releasing", "waiting"]
    store.deliver()
    assert store.states() == ["ended", "released", "pending"]


@pytest.mark.parametrize(("kind", "may_hold"), [(Accepted, False), (Refused, True)])
def test_waiting_one_is_started(store: Store, kind: type[Outcome], may_hold: bool) -> None:
    """The dispatch that waited for a release starts when it has settled, and knows whether VCC may still hold it."""
    store.record(dispatch())
    store.deliver()
    store.record(release(), dispatch())
    store.deliver(kind)
    row = store.row()
    assert (row.state, row.is_due, row.may_hold) == ("pending", True, may_hold)


def test_waiting_one_of_a_held_route_is_held(store: Store) -> None:
    """A waiting dispatch does not escape its route being held."""
    store.record(dispatch())
    store.deliver()
    store.record(release(), dispatch())
    store.run("insert into routes (route, held_at) values ('R', now())")
    store.deliver()
    assert (store.row().state, store.row().is_held) == ("pending", True)


def test_release_in_flight_dispatch(store: Store) -> None:
    """A release that comes while its dispatch is in flight goes after it, with the dispatch's provider."""
    store.record(dispatch(provider="P"))
    claimed = store.claim()
    assert store.verdicts(release()) == ["remembered"]
    store.settle(claimed)
    after = store.claim()
    assert (after.provider, [row.action for row in after.rows]) == ("P", ["release"])


def test_release_of_what_certainly_was_not_sent(store: Store) -> None:
    """A dispatch that certainly did not reach the API is not tried again once its release has come."""
    store.record(dispatch())
    claimed = store.claim()
    store.record(release(), dispatch())
    store.settle(claimed, Throttled)
    assert store.states() == ["cancelled", "pending"]


def test_refused_many_in_halves(store: Store) -> None:
    """A call of many that is refused goes again in halves, until the bad one stands alone."""
    store.record(*[dispatch(f"e{n}") for n in range(8)])
    sizes = []
    while claimed := store.claim_any():
        bad = any(row.externalid == "e5" for row in claimed.rows)
        sizes.append(len(claimed.rows))
        store.settle(claimed, Refused if bad else Accepted, error="bad")
    assert sizes[:2] == [8, 4]
    assert len(sizes) <= 8
    assert store.counts() == {"dispatched": 7, "failed": 1}
    bad_one = store.row("e5")
    assert (bad_one.last_error, bad_one.reason, bad_one.attempts) == ("bad", "refused by the API", 1)
    assert store.one("select max(attempts) from interactions") == 1


def test_unknown_of_many_while_others_succeed(store: Store) -> None:
    """A call that fails while others succeed is tried in smaller ones, in case one of its rows is poison."""
    store.record(*[dispatch(f"e{n}") for n in range(6)])
    claimed = store.claim()
    store.settle(claimed, Unknown, error="HTTP 500")
    assert store.row("e1").cap is None
    store.make_due()
    claimed = store.claim()
    store.record(dispatch("good"))
    store.deliver()
    store.settle(claimed, Unknown)
    row = store.row("e1")
    assert (row.cap, row.unsure, row.call, row.is_due) == (3, [1, 2], None, False)


@pytest.mark.parametrize(("before", "cap"), [("5 minutes", 3), ("2 hours", None)])
def test_others_that_succeeded_before_count_no_more(store: Store, before: str, cap: int | None) -> None:
    """A call that was accepted before the first send of these rows says nothing about them."""
    store.record(dispatch("good"))
    store.deliver()
    store.run("update invocations set started_at = now() - %(before)s::interval", before=before)
    store.record(*[dispatch(f"e{n}") for n in range(6)])
    claimed = store.claim()
    store.run("update interactions set first_sent_at = now() - interval '1 hour' where externalid = 'e3'")
    store.settle(claimed, Unknown)
    assert store.row("e1").cap == cap


@pytest.mark.parametrize(("before", "cap"), [("9 minutes", 1), ("11 minutes", None)])
@pytest.mark.parametrize("kind", [Misdirected, Forbidden])
def test_address_that_was_right_lately(
    store: Store, kind: type[Outcome], before: str, cap: int | None
) -> None:
    """A 403 or 404 is taken as one row's only where a call was accepted within ten minutes."""
    store.record(dispatch("good"))
    store.deliver()
    store.run("update invocations set started_at = now() - %(before)s::interval", before=before)
    store.record(dispatch("a"), dispatch("b"))
    store.deliver(kind)
    assert store.row("a").cap == cap


def test_giving_up_by_the_clock(store: Store) -> None:
    """The clock starts with the first send that may have been processed."""
    store.record(dispatch())
    store.deliver(Unknown)
    store.run("update interactions set first_sent_at = now() - interval '1 hour'")
    store.make_due()
    store.settle(store.claim(), Unknown, give_up_after=3_000.0)
    row = store.row()
    assert (row.state, row.reason) == ("failed", "given up: no certain answer in time")


def test_clock_starts_again_when_all_is_certain(store: Store) -> None:
    """What certainly never went out has no clock."""
    store.record(dispatch())
    store.deliver(NotSent)
    row = store.row()
    assert (row.first_sent_at, row.unsure, row.attempts, row.is_due) == (None, [], 1, False)


# --- routes ---------------------------------------------------------------------------------------


def refuse_singles(store: Store, many: int) -> None:
    """Have so many single requests refused."""
    for _ in range(many):
        store.settle(store.claim(limit=1), Refused, error="Route 'R' does not exist")


def test_route_is_held_after_twenty(store: Store) -> None:
    """Twenty refusals in a row hold the route, and the valve where nothing at all was accepted."""
    store.record(*[dispatch(f"e{n}") for n in range(30)], dispatch("other", route="S", lane="backlog"))
    refuse_singles(store, 19)
    assert store.one("select held_at from routes") is None
    since = store.one("select clock_timestamp()")
    refuse_singles(store, 1)
    assert store.counts() == {"failed": 20, "pending": 11}
    held = store.all("select route, message from routes where held_at is not null")
    assert held == [("R", "Route 'R' does not exist")]
    assert store.one("select count(*) from interactions where due_at = 'infinity'") == 10
    assert store.all("select reason, message, failures from gate") == [
        ("misconfigured", "Route 'R' does not exist", 1)
    ]
    assert store.one("select extract(epoch from closed_until - now()) from gate") <= 1
    assert store.one("select closed_until from gate") > since
    assert [row.externalid for row in store.claim().rows] == ["other"]


def test_route_is_held_alone_where_others_are_accepted(store: Store) -> None:
    """Where another route's call was accepted between, the valve stays open."""
    store.record(*[dispatch(f"e{n}") for n in range(25)])
    refuse_singles(store, 10)
    store.record(release("x", door="force"))
    store.settle(store.claim(limit=1))
    refuse_singles(store, 10)
    assert store.one("select held_at is not null from routes")
    assert store.one("select failures from gate") == 0


def test_one_accepted_between_begins_the_count_anew(store: Store) -> None:
    """Refusals count in a row only."""
    store.record(*[dispatch(f"e{n}") for n in range(40)])
    refuse_singles(store, 19)
    store.settle(store.claim(limit=1))
    refuse_singles(store, 19)
    assert store.one("select refused from routes") == 19
    assert store.one("select held_at from routes") is None


def test_refusals_that_do_not_count(store: Store) -> None:
    """A refusal of a release, or of a call that has lost its row, or of many, is none of the route's."""
    store.record(dispatch("a"))
    first, second = store.claim(lease=1e-6), store.claim()
    store.settle(first, Refused)
    store.settle(second)
    store.record(release("a"))
    store.deliver(Refused)
    store.record(dispatch("b"), dispatch("c"))
    store.deliver(Refused)
    assert store.one("select count(*) from routes") == 0


def test_accepted_release_leaves_the_count(store: Store) -> None:
    """Only a dispatch shows that its route is taken."""
    store.record(dispatch("a"))
    store.deliver()
    store.record(dispatch("b"))
    store.deliver(Refused)
    store.record(release("a"))
    store.deliver()
    assert store.one("select refused from routes") == 1


def test_in_flight_when_the_route_is_held(store: Store) -> None:
    """A row that was in flight then does not fail, it waits with the others."""
    store.record(*[dispatch(f"e{n}") for n in range(25)])
    late, many = store.claim(limit=1), store.claim(limit=2)
    refuse_singles(store, 20)
    store.settle(late, Refused)
    store.settle(many, Refused)
    assert store.counts() == {"failed": 20, "pending": 5}
    assert store.one("select count(*) from interactions where due_at = 'infinity'") == 5


def refuse_all(store: Store, claims: list[Claim]) -> None:
    """Have these calls refused."""
    for claimed in claims:
        store.settle(claimed, Refused)


def test_at_most_twenty_fail_at_once(store: Store) -> None:
    """Refusals that are settled at the same moment fail no more rows than those one after another."""
    store.record(*[dispatch(f"e{n}") for n in range(60)])
    claims = [store.claim(limit=1) for _ in range(40)]
    parts = [claims[n::4] for n in range(4)]
    together(*[lambda part=part: refuse_all(store, part) for part in parts])
    assert store.counts() == {"failed": 20, "pending": 40}
    assert store.one("select count(*) from interactions where due_at = 'infinity'") == 40


def test_let_go(store: Store) -> None:
    """On the operator's word a held route's rows are due; a route that is not held says so."""
    store.record(*[dispatch(f"e{n}") for n in range(22)])
    refuse_singles(store, 20)
    with store.engine.begin() as conn:
        assert let_go(conn, "S") is None
        assert let_go(conn, "R") == 2
        assert let_go(conn, "R") is None
    assert len(store.claim().rows) == 2
    assert store.one("select count(*) from routes") == 0


def test_forbidden_closes_its_provider_only(store: Store) -> None:
    """A 403 leaves one provider's rows alone for a while, longer each time, until a call of it is accepted."""
    store.record(dispatch("p", provider="P"))
    store.deliver(Forbidden, error="not yours")
    seconds = "select round(extract(epoch from closed_until - now())) from providers"
    assert 20 <= store.one(seconds) <= 30
    assert store.one("select message from providers") == "not yours"
    assert store.row("p").is_due
    assert store.claim_any() is None
    store.record(dispatch("n"))
    assert store.deliver().provider == ""
    store.run("update providers set closed_until = now()")
    store.deliver(Forbidden)
    assert 50 <= store.one(seconds) <= 60
    store.run("update providers set closed_until = now()")
    store.make_due()
    store.deliver()
    assert store.one("select count(*) from providers") == 0
    assert store.one("select failures from gate") == 0


def test_pruned_row_is_no_obstacle(store: Store) -> None:
    """A call whose rows are gone is settled all the same."""
    store.record(dispatch())
    claimed = store.claim()
    store.run("delete from interactions")
    store.settle(claimed)
    store.record(dispatch())
    claimed = store.claim()
    store.run("delete from interactions")
    store.settle(claimed, Refused)
    assert [o for (o,) in store.all("select outcome from invocations order by id")] == ["accepted", "refused"]


@pytest.mark.parametrize("kind", [Misdirected, Forbidden])
def test_one_odd_row_does_not_hold_up_the_rest(store: Store, kind: type[Outcome]) -> None:
    """While others are taken, rows answered 403 or 404 are halved, and one alone waits; none of them fails."""
    store.record(dispatch("taken"))
    store.deliver()
    store.record(*(dispatch(f"e{i}") for i in range(4)))
    store.deliver(kind)
    assert store.all("select distinct cap, due_at < now() from interactions where state = 'pending'") == [
        (2, True)
    ]
    store.run("delete from interactions where externalid <> 'e0'")
    store.run("update gate set closed_until = null, failures = 0")
    store.run("delete from providers")
    store.deliver(kind)
    row = store.row("e0")
    assert (row.state, row.attempts, row.is_due) == ("pending", 1, False)


def test_at_once_would_be_a_loop(store: Store) -> None:
    """A 429 that asks for no wait closes the valve all the same."""
    store.record(dispatch())
    before = store.one("select clock_timestamp()")
    store.deliver(Throttled, retry_after=0.0)
    assert (store.one("select closed_until from gate") - before).total_seconds() > 0.5
