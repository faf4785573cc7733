"""What an outcome means for a row of its call."""

from typing import Any

import pytest

from tests.factories import outcome, row
from worker.domain import outcome as outcomes
from worker.domain.lifecycle import KEPT, NEVER, NOW, Interaction, State
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
from worker.domain.settlement import GROUP_HEAD_START, Circumstances, is_spent, settle_row, take_back

S = State
CALL, OTHER = 7, 5
READY = (Throttled, Unauthorised, Misdirected, Forbidden)


def in_flight(state: State = S.PENDING, **fields: Any) -> Interaction:
    """Make a row that the call has in flight."""
    return row(state, **{"call": CALL, "unsure": [CALL], "attempts": 1, "sent_for": 1.0, **fields})


def settle(it: Interaction, kind: type[Outcome], *, size: int = 1, **about: Any) -> None:
    """Settle the row as one of a call of so many."""
    sent = (it.action, it.requestid or "")
    given = Circumstances(CALL, size, **{"give_up_after": 86_400.0, "wait": 4.0, **about})
    settle_row(it, sent, outcome(kind, error="said the API"), given)


def test_every_outcome_is_settled() -> None:
    """No outcome leaves a row in flight."""
    kinds = [kind for kind in vars(outcomes).values() if isinstance(kind, type) and hasattr(kind, "certain")]
    for kind in kinds:
        if kind.__name__ != "_Outcome":
            it = in_flight()
            settle(it, kind)
            assert (it.call, it.changed) == (None, True), kind


@pytest.mark.parametrize(
    ("state", "done", "given_up"),
    [(S.PENDING, S.DISPATCHED, S.FAILED), (S.RELEASING, S.RELEASED, S.RELEASE_FAILED)],
)
def test_final_outcomes(state: State, done: State, given_up: State) -> None:
    """Accepted takes the row on, a refusal of it alone fails it."""
    it = in_flight(state)
    settle(it, Accepted)
    assert (it.state, it.unsure, it.cap, it.last_error, it.clock_reset) == (done, [], None, None, True)
    it = in_flight(state)
    settle(it, Refused)
    assert (it.state, it.unsure, it.reason) == (given_up, [], "refused by the API")
    assert it.last_error == "said the API"


@pytest.mark.parametrize("state", [S.PENDING, S.RELEASING])
@pytest.mark.parametrize("kind", READY)
def test_no_fault_of_the_row(state: State, kind: type[Outcome]) -> None:
    """What is no fault of the row costs it nothing: it is ready, and certainly not sent."""
    it = in_flight(state)
    settle(it, kind, size=9)
    assert (it.state, it.due, it.attempts, it.unsure, it.cap) == (state, NOW, 0, [], None)
    assert it.clock_reset


@pytest.mark.parametrize("kind", [Misdirected, Forbidden])
@pytest.mark.parametrize(("size", "due", "attempts", "cap"), [(1, 40.0, 1, None), (2, -3600.0, 0, 1)])
def test_odd_row_makes_way(
    kind: type[Outcome], size: int, due: float, attempts: int, cap: int | None
) -> None:
    """While others are taken, one row alone waits ten times longer than others, two go on by themselves."""
    it = in_flight()
    settle(it, kind, size=size, others_succeed=True)
    assert (it.state, it.due, it.attempts, it.cap) == (S.PENDING, due, attempts, cap)


@pytest.mark.parametrize("state", [S.PENDING, S.RELEASING])
def test_not_sent_is_tried_again(state: State) -> None:
    """What never left waits its time, is certain, and counts as an attempt."""
    it = in_flight(state)
    settle(it, NotSent)
    assert (it.state, it.due, it.attempts, it.unsure) == (state, 4.0, 1, [])
    assert it.clock_reset


@pytest.mark.parametrize("state", [S.PENDING, S.RELEASING])
def test_unknown_stays_unsure(state: State) -> None:
    """What was perhaps processed waits its time and stays unsure, its clock running."""
    it = in_flight(state)
    settle(it, Unknown, size=8)
    assert (it.state, it.due, it.attempts, it.unsure, it.cap) == (state, 4.0, 1, [CALL], None)
    assert not it.clock_reset


@pytest.mark.parametrize(("size", "cap"), [(9, 4), (2, 1), (1, None)])
def test_unknown_while_others_succeed_lowers_the_cap(size: int, cap: int | None) -> None:
    """Where other calls succeed, something in this one may be poison: it travels in fewer company."""
    it = in_flight()
    settle(it, Unknown, size=size, others_succeed=True)
    assert it.cap == cap


@pytest.mark.parametrize(("size", "cap"), [(500, 250), (3, 1), (2, 1)])
def test_refused_among_many(size: int, cap: int) -> None:
    """A refusal of many halves the company, gives the attempt back and goes before the others."""
    it = in_flight()
    settle(it, Refused, size=size)
    assert (it.state, it.cap, it.attempts, it.unsure) == (S.PENDING, cap, 0, [])
    assert it.due == -GROUP_HEAD_START / cap


def test_refused_for_a_held_route() -> None:
    """What is refused on a held route waits for the operator; another route's row does not."""
    it, other = in_flight(), in_flight(route="S")
    for one in (it, other):
        settle(one, Refused, held_routes=frozenset("R"))
    assert (it.state, it.due, it.attempts) == (S.PENDING, NEVER, 0)
    assert other.state is S.FAILED


def test_release_is_not_held_with_its_route() -> None:
    """A refused release fails, however the route of its dispatch is."""
    it = in_flight(S.RELEASING)
    settle(it, Refused, held_routes=frozenset("R"))
    assert it.state is S.RELEASE_FAILED


@pytest.mark.parametrize("kind", [*READY, NotSent, Refused, Unknown])
def test_outcome_of_a_call_that_lost_the_row(kind: type[Outcome]) -> None:
    """Past its lease a call's outcome changes nothing but whether that call is still unsure."""
    it = in_flight(call=9, unsure=[CALL, 9], attempts=2)
    settle(it, kind)
    assert (it.state, it.call, it.attempts, it.due, it.last_error) == (S.PENDING, 9, 2, KEPT, None)
    assert it.unsure == ([CALL, 9] if kind is Unknown else [9])
    assert not it.clock_reset


@pytest.mark.parametrize(
    "it",
    [
        in_flight(call=9, unsure=[CALL, 9]),
        in_flight(S.FAILED, call=None),
        in_flight(call=None, unsure=[OTHER, CALL]),
    ],
)
def test_accepted_counts_however_late(it: Interaction) -> None:
    """Accepted is a fact by its requestid: for a row that another call has, and for one that was given up."""
    settle_row(it, ("dispatch", "D"), outcome(Accepted), Circumstances(CALL, 1, 1.0))
    assert (it.state, it.call, it.unsure) == (S.DISPATCHED, None, [])


def test_release_accepted_late() -> None:
    """A release that was given up is released when it turns out to have been accepted."""
    it = in_flight(S.RELEASE_FAILED, call=None)
    settle_row(it, ("release", "L"), outcome(Accepted), Circumstances(CALL, 1, 1.0))
    assert it.state is S.RELEASED
    assert it.marks == {"released"}


@pytest.mark.parametrize(
    ("it", "sent"),
    [
        (row(S.DISPATCHED), ("dispatch", "D")),
        (row(S.RELEASING), ("dispatch", "D")),
        (row(S.RELEASED), ("release", "L")),
        (row(S.PENDING, dispatch_requestid="FRESH"), ("dispatch", "D")),
        (row(S.RELEASING, release_requestid="FRESH"), ("release", "L")),
        (row(S.ENDED), ("dispatch", "D")),
    ],
)
def test_accepted_of_something_else(it: Interaction, sent: tuple[str, str]) -> None:
    """What is accepted already, or was sent under another requestid, stays as it is."""
    before = it.state
    settle_row(it, sent, outcome(Accepted), Circumstances(CALL, 1, 1.0))
    assert (it.state, it.changed) == (before, False)


def test_accepted_after_a_newer_lifecycle_began() -> None:
    """A failed row that was accepted after all is over where a newer one has taken its place."""
    it = in_flight(S.FAILED, call=None)
    settle(it, Accepted, taken=frozenset("e"))
    assert (it.state, it.reason) == (S.ENDED, "accepted after all, but superseded")


@pytest.mark.parametrize(
    ("unsure", "may_hold", "state"),
    [([CALL], False, S.CANCELLED), ([OTHER, CALL], False, S.RELEASING), ([CALL], True, S.RELEASING)],
)
def test_refused_with_a_release_remembered(unsure: list[int], may_hold: bool, state: State) -> None:
    """A refusal is certain about its own call only: the release is sent where VCC may hold the interaction."""
    it = in_flight(unsure=unsure, may_hold=may_hold, release_requestid="L")
    settle(it, Refused)
    assert it.state is state


@pytest.mark.parametrize("kind", [*READY, NotSent])
@pytest.mark.parametrize(("may_hold", "state"), [(False, S.CANCELLED), (True, S.PENDING)])
def test_certainly_not_sent_with_a_release_remembered(
    kind: type[Outcome], may_hold: bool, state: State
) -> None:
    """What certainly never reached the API is not sent any more once its release has come."""
    it = in_flight(release_requestid="L", may_hold=may_hold)
    settle(it, kind, size=3)
    assert it.state is state


def test_refused_among_many_with_a_release_remembered() -> None:
    """Nor is what was refused in company."""
    it = in_flight(release_requestid="L")
    settle(it, Refused, size=3)
    assert it.state is S.CANCELLED


@pytest.mark.parametrize(
    ("unsure", "state"), [([CALL], S.CANCELLED), ([OTHER, CALL], S.RELEASING)], ids=["certain", "unsure"]
)
def test_held_route_does_not_keep_a_release(unsure: list[int], state: State) -> None:
    """A release that was remembered does not wait for the operator with the route of its dispatch."""
    it = in_flight(release_requestid="L", unsure=unsure)
    settle(it, Refused, held_routes=frozenset("R"))
    assert it.state is state


def test_clock_stops_only_when_nothing_is_unsure() -> None:
    """A certain outcome leaves the clock running while an earlier call is unsure."""
    it = in_flight(unsure=[OTHER, CALL])
    settle(it, Throttled)
    assert (it.unsure, it.clock_reset) == ([OTHER], False)


@pytest.mark.parametrize("kind", [Unknown, NotSent])
def test_giving_up(kind: type[Outcome]) -> None:
    """A row that was perhaps sent too long ago is given up, one second before that it is not."""
    for sent_for, state in ((99.0, S.PENDING), (101.0, S.FAILED)):
        it = in_flight(unsure=[OTHER, CALL], sent_for=sent_for)
        settle(it, kind, give_up_after=100.0)
        assert it.state is state
    assert it.reason == "given up: no certain answer in time"


def test_what_was_never_sent_is_never_given_up() -> None:
    """However long ago its first try was, a row that certainly never went out goes on."""
    it = in_flight(sent_for=1e9)
    settle(it, NotSent, give_up_after=100.0)
    assert it.state is S.PENDING
    assert not is_spent(row(sent_for=1e9), 100.0)
    assert not is_spent(row(unsure=[1]), 100.0)
    assert not is_spent(row(unsure=[1], sent_for=100.0), 100.0)


def test_taken_back() -> None:
    """A row whose call was not made is as if it had never been claimed."""
    it = in_flight(unsure=[OTHER, CALL], attempts=3, cap=2)
    take_back(it, CALL)
    assert (it.state, it.call, it.due, it.attempts, it.unsure, it.cap) == (
        S.PENDING,
        None,
        NOW,
        2,
        [OTHER],
        2,
    )
    assert (it.changed, it.clock_reset) == (True, False)


def test_taken_back_from_a_call_that_lost_it() -> None:
    """What another call has taken meanwhile stays with it."""
    it = in_flight(call=9, unsure=[CALL, 9], attempts=2)
    take_back(it, CALL)
    assert (it.call, it.due, it.attempts, it.unsure, it.changed) == (9, KEPT, 2, [9], True)


def test_taken_back_with_a_release_remembered() -> None:
    """A dispatch that was not sent after all is not sent any more once its release has come."""
    it = in_flight(release_requestid="L")
    take_back(it, CALL)
    assert (it.state, it.reason) == (S.CANCELLED, "released before anything could have reached the API")
