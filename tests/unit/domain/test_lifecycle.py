"""The graph of states and the moves along it."""

import re
from itertools import product
from pathlib import Path

import pytest

from tests.factories import row
from worker.domain import lifecycle as life
from worker.domain.lifecycle import EDGES, FINAL, IN_WORK, OPEN, IllegalMoveError, Interaction, State

DOC = Path(life.__file__).parents[2] / "docs" / "lifecycle.md"
S = State

OFF_THE_GRAPH = [(a, b) for a, b in product(State, State) if b not in EDGES[a]]


def test_graph_is_total() -> None:
    """Every state says where it can go, and nothing else does."""
    assert set(EDGES) == {None, *State}


def test_every_state_can_be_reached() -> None:
    """From the first job on there is a way to every state."""
    reached: set[State] = set()
    fresh = set(EDGES[None])
    while fresh:
        reached |= fresh
        fresh = {state for old in fresh for state in EDGES[old]} - reached
    assert reached == set(State)


def test_states_are_sorted_by_what_is_left_to_do() -> None:
    """A state is open, waiting or final; only final ones have no way but by a job's or an operator's word."""
    assert set(State) == OPEN | {S.WAITING} | FINAL
    assert not OPEN & FINAL
    assert IN_WORK < OPEN
    assert {state for state in State if not EDGES[state]} == {S.RELEASED, S.CANCELLED, S.ORPHANED}


def test_document_shows_the_graph() -> None:
    """The graph in the documentation has these edges and no others."""
    graph = re.findall(r"^\s*(\[\*\]|\w+) --> (\w+)", DOC.read_text(), re.MULTILINE)
    drawn = {(None if a == "[*]" else State(a), State(b)) for a, b in graph}
    assert drawn == {(a, b) for a, to in EDGES.items() for b in to}


@pytest.mark.parametrize(("here", "there"), OFF_THE_GRAPH)
def test_move_off_the_graph_is_refused(here: State, there: State) -> None:
    """A move that the graph does not have raises and leaves the row as it was."""
    it = row(here, call=3, due=5.0)
    with pytest.raises(IllegalMoveError, match=f"{here} has no way to {there}"):
        life.move(it, there)
    assert (it.state, it.call, it.due, it.changed) == (here, 3, 5.0, False)


def test_move_ends_what_was_in_flight() -> None:
    """Whatever moves has no call and no schedule any more, and says why it moved."""
    it = row(S.PENDING, call=3, due=5.0)
    life.move(it, S.FAILED, "refused")
    assert (it.state, it.reason, it.call, it.due, it.changed) == (S.FAILED, "refused", None, None, True)


def test_release_begins_anew() -> None:
    """A release has its own attempts, cap, clock and size, and is unsure about nothing yet."""
    it = row(
        S.DISPATCHED, release_requestid="L", attempts=4, cap=2, unsure=[7], bytes=5_000, last_error="HTTP 500"
    )
    life.to_releasing(it)
    assert (it.state, it.due, it.attempts, it.cap, it.unsure) == (S.RELEASING, life.NOW, 0, None, [])
    assert it.clock_reset
    assert it.last_error is None
    assert it.bytes == len('{"action":"release","requestid":"L","externalid":"e"}')


def test_accepted_dispatch_goes_on_to_its_remembered_release() -> None:
    """A dispatch that is taken with a release remembered is released next."""
    it = row(S.PENDING, release_requestid="L", call=1, unsure=[1])
    life.to_dispatched(it)
    assert it.state is S.RELEASING
    assert it.marks == {"dispatched"}


@pytest.mark.parametrize(
    ("it", "state"),
    [
        (row(S.PENDING), S.FAILED),
        (row(S.PENDING, release_requestid="L"), S.CANCELLED),
        (row(S.PENDING, release_requestid="L", unsure=[1]), S.RELEASING),
        (row(S.PENDING, release_requestid="L", may_hold=True), S.RELEASING),
        (row(S.RELEASING), S.RELEASE_FAILED),
    ],
)
def test_giving_up(it: Interaction, state: State) -> None:
    """A given-up action fails; but a remembered release is sent where VCC may hold the interaction."""
    life.give_up(it, "given up")
    assert it.state is state
    assert it.reason == (None if state is S.RELEASING else "given up")


@pytest.mark.parametrize(
    ("it", "left"),
    [
        (row(S.ENDED), True),
        (row(S.RELEASE_FAILED), True),
        (row(S.FAILED), False),
        (row(S.FAILED, unsure=[1]), True),
        (row(S.FAILED, may_hold=True), True),
        (row(S.RELEASED), False),
        (row(S.CANCELLED, may_hold=True), False),
        (row(S.DISPATCHED, unsure=[1]), False),
    ],
)
def test_leftover(it: Interaction, left: bool) -> None:
    """Only what is over for us and not certainly over for VCC is a leftover."""
    assert it.leftover is left


def test_expired_hold_is_orphaned() -> None:
    """A release whose dispatch did not come says so."""
    it = row(S.AWAITING_DISPATCH)
    life.expire(it)
    assert (it.state, it.reason) == (S.ORPHANED, "no dispatch came within the grace period")


@pytest.mark.parametrize(
    ("state", "unsure", "dispatch", "release", "replaced"),
    [
        (S.FAILED, [], "fresh", None, "D"),
        (S.FAILED, [4], "D", None, None),
        (S.RELEASE_FAILED, [], "D", "fresh", "L"),
        (S.RELEASE_FAILED, [4], "D", "L", None),
    ],
)
def test_retry_keeps_the_requestid_that_the_api_may_know(
    state: State, unsure: list[int], dispatch: str, release: str | None, replaced: str | None
) -> None:
    """What may have been processed goes again under its requestid, what was refused under a fresh one."""
    it = row(state, unsure=list(unsure), attempts=9)
    assert life.retry(it, "fresh") == replaced
    assert (it.dispatch_requestid, it.release_requestid) == (dispatch, release)
    assert it.state in IN_WORK
    assert (it.due, it.attempts, it.clock_reset, it.unsure) == (life.NOW, 0, True, unsure)
    assert it.requestid == (dispatch if it.action == "dispatch" else release)


def test_hold_by_name() -> None:
    """A release held for one dispatch stands beside the open lifecycle, one held for any does not."""
    assert row(S.AWAITING_DISPATCH, dispatch_requestid="D").is_hold
    assert not row(S.AWAITING_DISPATCH).is_hold
