"""The valve: who passes, what closes it, what opens it."""

from typing import Any

import pytest

from tests.factories import LEASE, Store, dispatch, together
from worker.domain.outcome import (
    Accepted,
    Forbidden,
    Misdirected,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unauthorised,
    Unknown,
)
from worker.store import gate
from worker.store.gate import Passage, Reading


def unhappy(store: Store, kind: type[Outcome], passage: Passage | None = None, **answer: Any) -> None:
    """Have a call come to something, with a row that is there for it."""
    store.run(
        """insert into interactions (externalid, state, route, dispatch_requestid, due_at)
        select 'u' || n, 'pending', 'R', 'u' || n, now()
        from (select coalesce(max(id), 0) + 1 as n from interactions) x"""
    )
    store.settle(store.claim(), kind, passage, **answer)


def read(store: Store) -> Reading:
    """Read the valve."""
    with store.engine.connect() as conn:
        return gate.read(conn)


def closed_for(store: Store) -> float:
    """Tell for how many seconds the valve is closed."""
    return float(store.one("select coalesce(extract(epoch from closed_until - now()), 0) from gate"))


def wait(store: Store) -> None:
    """Let the time pass until which the valve is closed."""
    store.run("update gate set closed_until = now()")


def still_open(store: Store, passage: Passage) -> bool:
    """Look at the valve again."""
    with store.engine.connect() as conn:
        return gate.still_open(conn, passage)


def test_healthy_valve_lets_everybody_pass(store: Store) -> None:
    """Where all is well a delivery passes at once, and every passage is another turn."""
    first, second = store.passage(), store.passage()
    assert (first.epoch, first.probe, first.wait, first.ailing) == (0, False, 0.0, False)
    assert second.turn == first.turn + 1
    assert read(store) == Reading(True, None, None, None, None)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Throttled, "throttled"),
        (Unauthorised, "unauthorised"),
        (Misdirected, "misconfigured"),
        (NotSent, "unreachable"),
        (Unknown, "unreachable"),
    ],
)
def test_closes_with_a_reason(store: Store, kind: type[Outcome], reason: str) -> None:
    """What makes every further call pointless closes the valve, with its reason and the API's words."""
    since = store.one("select clock_timestamp()")
    before = store.passage()
    unhappy(store, kind, error="said the API")
    assert closed_for(store) < 1.5
    assert (store.one("select closed_until from gate") - since).total_seconds() > 0.5
    store.run("update gate set closed_until = closed_until + interval '1 minute'")  # however slow we are
    assert store.enter() is None
    assert not still_open(store, before)
    now = read(store)
    assert (now.open, now.reason, now.message) == (False, reason, "said the API")
    assert closed_for(store) > 50


@pytest.mark.parametrize("kind", [Accepted, Refused, Forbidden])
def test_stays_open(store: Store, kind: type[Outcome]) -> None:
    """What says nothing about other calls leaves the valve open."""
    unhappy(store, kind)
    assert store.passage().epoch == 0


@pytest.mark.parametrize("kind", [Accepted, Refused])
def test_probe_mends(store: Store, kind: type[Outcome]) -> None:
    """Past its time one probe goes first; a call that the API took opens the valve for all."""
    unhappy(store, Unknown)
    wait(store)
    probe = store.passage()
    assert (probe.probe, probe.ailing, probe.epoch) == (True, True, 1)
    assert store.enter() is None
    assert not read(store).open
    unhappy(store, kind, probe)
    assert not store.passage().probe
    assert read(store) == Reading(True, None, None, None, None)


def test_failures_in_a_row_close_it_for_longer(store: Store) -> None:
    """Each probe that fails doubles the time, up to a minute."""
    unhappy(store, NotSent)
    for expected in (2, 4, 8, 16, 32, 60, 60):
        wait(store)
        before = store.one("select clock_timestamp()")
        unhappy(store, NotSent, store.passage())
        assert (store.one("select closed_until from gate") - before).total_seconds() > 0.7 * expected
        assert closed_for(store) < min(1.3 * expected, 60.5)


def test_calls_in_flight_together_count_once(store: Store) -> None:
    """Ten calls of one epoch that all fail close the valve as one does."""
    store.record(*[dispatch(f"e{n}") for n in range(10)])
    claims = [(store.passage(), store.claim(limit=1)) for _ in range(10)]
    together(*[lambda p=p, c=c: store.settle(c, Unknown, p) for p, c in claims])
    assert store.all("select epoch, failures from gate") == [(1, 1)]
    assert closed_for(store) < 1.5


def test_success_of_an_earlier_epoch_mends_nothing(store: Store) -> None:
    """A call that was sent before the valve closed does not open it."""
    unhappy(store, Unknown)
    wait(store)
    store.record(dispatch())
    before, claimed = store.passage(), store.claim()
    unhappy(store, Unknown, before)
    store.settle(claimed, Accepted, before)
    assert not read(store).open


def test_dead_probe_is_replaced(store: Store) -> None:
    """A probe that is not heard of again makes way when its lease ends."""
    unhappy(store, Unknown)
    wait(store)
    assert store.enter(lease=60.0) is not None
    assert store.enter() is None
    store.run("update gate set probe_until = now()")
    assert store.passage().probe


def test_probe_that_found_nothing(store: Store) -> None:
    """A probe that has nothing to send leaves at once."""
    unhappy(store, Unknown)
    wait(store)
    store.passage()
    with store.engine.begin() as conn:
        gate.leave(conn)
    assert store.passage().probe


# --- throttled ------------------------------------------------------------------------------------


def test_retry_after_is_kept(store: Store) -> None:
    """The valve stays closed for as long as the API asks."""
    unhappy(store, Throttled, retry_after=300.0)
    assert 270 < closed_for(store) <= 300
    now = read(store)
    assert now.opens_at is not None
    assert now.rate == 1.0


def test_closing_only_grows(store: Store) -> None:
    """A later answer never shortens what an earlier one asked for, and a longer one counts in any epoch."""
    first, second, third = (store.passage() for _ in range(3))
    unhappy(store, Throttled, first, retry_after=100.0)
    unhappy(store, Throttled, second, retry_after=10.0)
    assert 70 < closed_for(store) <= 100
    unhappy(store, Throttled, third, retry_after=200.0)
    assert 170 < closed_for(store) <= 200
    assert store.one("select failures from gate") == 1


def test_rate_is_learned_and_recovers(store: Store) -> None:
    """A 429 halves the calls per second that led to it; every accepted call gives a little back."""
    for _ in range(12):
        unhappy(store, Accepted)
    passage = store.passage()
    store.run("update invocations set started_at = now() + interval '1 minute'")  # all within the last second
    unhappy(store, Throttled, passage)
    assert read(store).rate == 6.5
    unhappy(store, Throttled, passage)
    assert read(store).rate == 6.5
    wait(store)
    unhappy(store, Accepted, store.passage())
    assert read(store).rate == pytest.approx(6.63)
    store.run("update gate set rate = 99.5")
    passage = store.passage()
    assert passage.ailing
    unhappy(store, Accepted, passage)
    assert read(store).rate is None


def test_rate_is_forgotten(store: Store) -> None:
    """Ten minutes after the last 429 the rate that it taught no longer binds, nor does it count for the next one."""
    unhappy(store, Throttled)
    assert read(store).rate == 1
    store.run("update gate set rate = 7, slowed_at = now() - interval '11 minutes'")
    assert read(store).rate is None
    wait(store)
    unhappy(store, Throttled, store.passage())
    assert read(store).rate == 1


def test_resume_of_a_healthy_valve(store: Store) -> None:
    """Resuming what is open anyway leaves no time behind at which it would open."""
    with store.engine.begin() as conn:
        gate.pause(conn, "x")
        gate.resume(conn)
    found = read(store)
    assert (found.open, found.opens_at, found.reason) == (True, None, None)


def empty(store: Store) -> None:
    """Have nothing that is due."""
    store.run(
        "update interactions set state = 'cancelled', due_at = null, call = null where state = 'pending'"
    )


def held(store: Store) -> None:
    """Have a row that waits for somebody to let its route go."""
    store.record(dispatch("held"))
    store.run("update interactions set due_at = 'infinity' where externalid = 'held'")


def resume(store: Store) -> None:
    """Resume, as an operator does."""
    with store.engine.begin() as conn:
        gate.resume(conn)


@pytest.mark.parametrize("kind", [NotSent, Misdirected, Unauthorised, Throttled])
def test_resume_where_nothing_is_due(store: Store, kind: type[Outcome]) -> None:
    """Without anything that could be a probe the operator opens the valve, and no old reason stays."""
    unhappy(store, kind, error="said the API")
    empty(store)
    held(store)
    wait(store)
    resume(store)
    found = read(store)
    assert (found.open, found.reason, found.message, found.opens_at) == (True, None, None, None)
    assert not store.passage().probe
    unhappy(store, kind)
    assert not read(store).open


def test_resume_leaves_what_the_api_asked_for(store: Store) -> None:
    """The time that the API asked for passes, whether anything is due or not."""
    unhappy(store, Throttled, retry_after=60.0)
    empty(store)
    resume(store)
    assert (read(store).reason, store.enter()) == ("throttled", None)


@pytest.mark.parametrize("so", ["waits", "is due", "is under way"])
def test_resume_where_something_is_to_be_sent(store: Store, so: str) -> None:
    """What is due, soon or now, or under way, finds out for all the others: one probe, as ever."""
    unhappy(store, Unauthorised)
    if so != "waits":
        store.make_due()
    if so == "is under way":
        store.claim()
    resume(store)
    assert (read(store).open, read(store).reason) == (False, "unauthorised")
    assert store.passage().probe


def test_rate_never_falls_below_one(store: Store) -> None:
    """However often we are throttled, one call a second is left."""
    for _ in range(4):
        unhappy(store, Throttled, store.passage())
        wait(store)
    assert read(store).rate == 1.0


def test_turns_under_a_rate(store: Store) -> None:
    """Deliveries take turns; who would wait for more than two seconds leaves."""
    with store.engine.begin() as conn:  # at one and the same time
        waits = [p.wait if p else None for p in (gate.enter(conn, lease=LEASE, limit=1.0) for _ in range(5))]
    assert waits[0] == 0.0
    assert [w and round(w) for w in waits[1:]] == [1, 2, None, None]
    assert store.passage().wait == 0.0


def test_slower_of_two_rates(store: Store) -> None:
    """Of the operator's rate and the learned one the lower counts."""
    store.run("update gate set rate = 1, slowed_at = now()")
    with store.engine.begin() as conn:  # at one and the same time
        gate.enter(conn, lease=LEASE, limit=50.0)
        later = gate.enter(conn, lease=LEASE, limit=50.0)
    assert later is not None
    assert 0.5 < later.wait <= 1.0


def test_probe_without_a_turn_leaves_the_probe(store: Store) -> None:
    """A probe for which no turn is near gives its place back."""
    unhappy(store, Unknown)
    wait(store)
    store.run("update gate set next_slot = now() + interval '1 minute'")
    assert store.enter(limit=1.0) is None
    assert store.one("select probe_until from gate") is None


# --- by hand --------------------------------------------------------------------------------------


def test_pause_outlives_everything(store: Store) -> None:
    """The operator's pause stays whatever calls in flight come to."""
    passage = store.passage()
    with store.engine.begin() as conn:
        gate.pause(conn, "tea")
    assert store.enter() is None
    assert not still_open(store, passage)
    unhappy(store, Unknown, passage)
    unhappy(store, Accepted, Passage(1, True, 0.0, 1, True))
    assert (read(store).reason, read(store).message) == ("paused", "tea")
    with store.engine.begin() as conn:
        gate.resume(conn)
    assert read(store).open
    assert not store.passage().probe


def test_resume_lets_a_probe_go_at_once(store: Store) -> None:
    """On the operator's word a probe goes now, unless the API asked for the time."""
    unhappy(store, Unauthorised)
    with store.engine.begin() as conn:
        gate.resume(conn)
    assert store.passage().probe
    unhappy(store, Throttled, Passage(1, True, 0.0, 1, True), retry_after=60.0)
    with store.engine.begin() as conn:
        gate.resume(conn)
    assert store.enter() is None
