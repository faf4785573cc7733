"""Calls, releases and newer lifecycles in an unlucky order: what the table says of it, and what the API saw."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import dispatch, release
from tests.stories import Works
from worker.store.retry import Which, retry


def meet(works: Works, first: str, **jobs: Callable[[], Any]) -> list[Any]:
    """Let jobs wait for the same row, the one named first in front, and then go on; what they came to."""
    names = sorted(jobs, key=lambda name: name != first)
    with works.locked():
        ends = works.queue(*[jobs[name] for name in names])
    return [end.result(60) for end in ends]


# --- a call and what comes while it is under way --------------------------------------------------


@pytest.mark.parametrize("stage", ["request", "answer"])
def test_call_that_stalls_past_its_lease(works: Works, stage: str) -> None:
    """What a stalled call dispatches is released, though a second call was throttled and a release came meanwhile."""
    works.record(dispatch(requestid="d", provider="P"))
    with works.stalled(stage) as go:
        works.make_due()
        works.simulator.faults(throttle={"calls": 1})
        works.send()
        works.run("update gate set closed_until = closed_until + interval '1 minute'")  # however slow we are
        row = works.row()
        assert (row.state, row.call, row.unsure, row.attempts) == ("pending", None, [1], 1)
        assert works.verdicts(release(requestid="r")) == ["remembered"]
        if stage == "request":
            works.simulator.clear_faults()
        go()
    row = works.row()
    assert (row.state, row.unsure, row.attempts, row.is_due) == ("releasing", [], 0, True)
    assert works.send() == 0  # the valve is closed still: the late answer says nothing about it
    works.send_all()
    assert works.states() == ["released"]
    assert works.ledger() == [("dispatch", "d", "P"), ("release", "r", "P")]


def test_late_refusal_leaves_the_second_call_alone(works: Works) -> None:
    """A stalled call that was throttled takes nothing from the row that the second call has in flight by then."""
    works.record(dispatch(requestid="d"))
    works.simulator.faults(throttle={"calls": 1})
    with works.stalled("answer") as first:
        works.make_due()
        with works.stalled("answer") as second:
            first()
            row = works.row()
            assert (row.state, row.call, row.unsure, row.attempts) == ("pending", 2, [2], 2)
            assert works.verdicts(release(requestid="r")) == ["remembered"]
            second()
    works.send_all()
    assert works.states() == ["released"]
    assert works.ledger() == [("dispatch", "d", None), ("release", "r", None)]


@pytest.mark.parametrize("refused", [False, True])
def test_again_and_released_before_it_was_sent(works: Works, refused: bool) -> None:
    """The release of a lifecycle that took another's place is sent, be its own dispatch accepted or refused."""
    works.record(dispatch(requestid="d"))
    works.send()
    assert works.verdicts(dispatch(requestid="d2", again=True, route="N")) == ["opened"]
    assert works.verdicts(release(requestid="r")) == ["remembered"]
    if refused:
        works.simulator.faults(refuse_routes=["N"])
    works.send_all()
    assert works.states() == ["ended", "released"]
    sent = [entry[:2] for entry in works.ledger()]
    assert sent == [("dispatch", "d"), *([] if refused else [("dispatch", "d2")]), ("release", "r")]
    works.amiss["redispatched"] = int(not refused)  # the customer wrote again


@pytest.mark.parametrize("fault", ["cut_after", "cut_before"])
def test_unknown_then_refused(works: Works, fault: str) -> None:
    """A refusal speaks for its own call only: a release is sent where an earlier one may have been processed."""
    works.record(dispatch(requestid="d", provider="P"))
    works.simulator.faults(**{fault: {"calls": 1}})
    works.send()
    assert works.row().unsure == [1]
    assert works.verdicts(release(requestid="r")) == ["remembered"]
    works.simulator.faults(refuse_routes=["R"])
    works.open_valve()
    works.make_due()
    works.send()
    assert works.states() == ["released"]
    assert [call.outcome for call in works.all("select * from invocations order by id")] == [
        "unknown",
        "refused",
        "accepted",
    ]
    reached = [("dispatch", "d", "P")] if fault == "cut_after" else []
    assert works.ledger() == [*reached, ("release", "r", "P")]
    assert works.book("interactions") == [{"dispatched": 0, "released": len(reached)}]
    if fault == "cut_before":  # nobody could know that there was nothing to release
        works.amiss["unknown_releases"] = 1


# --- a dispatch behind a release ------------------------------------------------------------------


@pytest.mark.parametrize("under_way", [False, True])
def test_dispatch_while_its_predecessor_is_releasing(works: Works, under_way: bool) -> None:
    """A dispatch that comes during a release goes after it, whether that is in flight already or not."""
    works.record(dispatch(requestid="d"))
    works.send()
    works.record(release(requestid="r"))
    if under_way:
        with works.stalled("request") as go:
            assert works.verdicts(dispatch(requestid="d2")) == ["waits"]
            assert works.send() == 0
            go()
    else:
        assert works.verdicts(dispatch(requestid="d2")) == ["waits"]
    works.send_all()
    assert works.states() == ["released", "dispatched"]
    assert [entry[1] for entry in works.ledger()] == ["d", "r", "d2"]


@pytest.mark.parametrize("arrived", [True, False])
def test_dispatch_while_a_release_is_remembered(works: Works, arrived: bool) -> None:
    """A dispatch behind a remembered release goes when that is sent, or when there is certainly nothing to release."""
    works.record(dispatch(requestid="d"))
    works.simulator.faults(**({} if arrived else {"throttle": {"calls": 1}}))
    with works.stalled("request") as go:
        assert works.verdicts(release(requestid="r")) == ["remembered"]
        assert works.verdicts(dispatch(requestid="d2")) == ["waits"]
        assert works.verdicts(dispatch(requestid="d3")) == ["duplicate"]
        assert works.states() == ["pending", "waiting"]
        go()
    works.send_all()
    assert works.states() == ["released" if arrived else "cancelled", "dispatched"]
    assert [entry[1] for entry in works.ledger()] == [*(["d", "r"] if arrived else []), "d2"]


@pytest.mark.parametrize("first", ["settle", "record"])
def test_dispatch_as_the_release_before_it_settles(works: Works, first: str) -> None:
    """A dispatch recorded at the moment in which the release before it settles is sent after it, and does not wait."""
    works.record(dispatch(requestid="d"))
    works.send()
    works.record(release(requestid="r"))
    with works.stalled("answer") as go:
        meet(works, first, settle=go, record=lambda: works.verdicts(dispatch(requestid="d2")))
    assert works.states() == ["released", "pending"]
    works.send_all()
    assert [entry[1] for entry in works.ledger()] == ["d", "r", "d2"]


# --- what failed ----------------------------------------------------------------------------------


def test_release_of_what_was_certainly_refused(works: Works) -> None:
    """The release of a dispatch that the API refused costs no call."""
    works.simulator.faults(refuse_routes=["R"])
    works.record(dispatch(requestid="d"))
    works.send()
    assert works.states() == ["failed"]
    works.simulator.clear_faults()
    assert works.verdicts(release(requestid="r")) == ["cancelled"]
    assert works.send() == 0
    assert (works.states(), works.ledger()) == (["cancelled"], [])


def test_release_of_what_failed_but_may_be_held(works: Works) -> None:
    """The release of a failed dispatch is sent, with its provider, where a call of it may have been processed."""
    works.simulator.faults(cut_after={"calls": 1})
    works.record(dispatch(requestid="d", provider="P"))
    works.send()
    works.simulator.faults(refuse_routes=["R"])
    works.open_valve()
    works.make_due()
    works.send()
    assert (works.states(), works.row().unsure) == (["failed"], [1])
    assert works.verdicts(release(requestid="r")) == ["releasing"]
    assert works.send() == 1
    assert works.states() == ["released"]
    assert works.ledger() == [("dispatch", "d", "P"), ("release", "r", "P")]


def refused_release(works: Works) -> None:
    """Make a lifecycle whose release the API refused."""
    works.record(dispatch(requestid="d"))
    works.send()
    works.record(release(requestid="r"))
    works.simulator.faults(poison=["e"])
    works.send()
    works.simulator.clear_faults()
    assert works.states() == ["release_failed"]


def test_retry_of_an_old_release_under_a_newer_lifecycle(works: Works) -> None:
    """An operator's retry leaves a failed release alone once a newer lifecycle has the externalid."""
    refused_release(works)
    works.record(dispatch(requestid="d2"))
    works.send()
    assert retry(works.engine, Which("release_failed")) == 0
    assert works.send() == 0
    assert works.states() == ["release_failed", "dispatched"]
    works.record(release(requestid="r2"))
    works.send()
    assert works.states() == ["release_failed", "released"]
    assert [entry[1] for entry in works.ledger()] == ["d", "d2", "r2"]
    works.amiss["redispatched"] = 1  # VCC holds the old one still: it refused its release


@pytest.mark.parametrize("first", ["retry", "record"])
def test_retry_as_a_newer_lifecycle_begins(works: Works, first: str) -> None:
    """Of an operator's retry and a new dispatch at the same moment the second sees what the first has done."""
    refused_release(works)
    came_to = meet(
        works,
        first,
        retry=lambda: retry(works.engine, Which("release_failed")),
        record=lambda: works.verdicts(dispatch(requestid="d2")),
    )
    if first == "retry":
        assert (came_to, works.states()) == ([1, ["waits"]], ["releasing", "waiting"])
    else:
        assert (came_to, works.states()) == ([["opened"], 0], ["release_failed", "pending"])
        assert works.row().may_hold
    works.send_all()
    between = ["release"] if first == "retry" else []
    assert [entry[0] for entry in works.ledger()] == ["dispatch", *between, "dispatch"]
    assert works.row().state == "dispatched"
    works.amiss["redispatched"] = int(first == "record")  # VCC holds the old one still


# --- accepted late --------------------------------------------------------------------------------


def given_up(works: Works) -> None:
    """Let so much time pass that what may have been sent is given up."""
    works.age("2 days")
    assert works.sweep()["given up"] == 1
    assert works.states() == ["failed"]


def test_accepted_after_it_was_given_up(works: Works) -> None:
    """A dispatch that turns out to have been accepted after it was given up is dispatched, and can be released."""
    works.record(dispatch(requestid="d", provider="P"))
    with works.stalled("answer") as go:
        given_up(works)
        go()
    assert works.states() == ["dispatched"]
    works.record(release(requestid="r"))
    works.send_all()
    assert works.states() == ["released"]
    assert works.ledger() == [("dispatch", "d", "P"), ("release", "r", "P")]


def test_accepted_after_a_newer_one_took_its_place(works: Works) -> None:
    """A given-up dispatch that was accepted is over where a newer one has its place; that one's release is sent."""
    works.record(dispatch(requestid="d"))
    with works.stalled("request") as go:
        given_up(works)
        assert works.verdicts(dispatch(requestid="d2")) == ["opened"]
        go()
    assert works.states() == ["ended", "pending"]
    assert works.verdicts(release(requestid="r")) == ["remembered"]
    works.send_all()
    assert works.states() == ["ended", "released"]
    assert [entry[1] for entry in works.ledger()] == ["d", "d2", "r"]
    works.amiss["redispatched"] = 1  # nobody could know that the first had arrived


def orphaned_by_name(works: Works) -> None:
    """Let a release wait in vain for the dispatch that it names."""
    works.record(release(requestid="x", dispatch_requestid="never"))
    works.age("2 days")
    assert works.sweep()["orphaned"] == 1


def test_release_behind_an_orphaned_one(works: Works) -> None:
    """A release is sent where VCC may hold what was given up, though one that was orphaned came in between."""
    works.record(dispatch(requestid="d"))
    with works.stalled("answer") as go:
        given_up(works)
        orphaned_by_name(works)
        assert works.verdicts(release(requestid="r")) == ["releasing"]
        works.send_all()
        go()
    assert works.states() == ["released", "orphaned"]
    assert works.ledger() == [("dispatch", "d", None), ("release", "r", None)]


def test_accepted_after_a_release_was_held(works: Works) -> None:
    """A release held for its dispatch is sent after it where VCC turns out to hold an older lifecycle."""
    works.record(dispatch(requestid="d"))
    with works.stalled("request") as go:
        given_up(works)
        works.record(dispatch(requestid="d2"))
        works.send()
        works.record(release(requestid="r2"))
        works.send()
        orphaned_by_name(works)
        assert works.verdicts(release(requestid="r")) == ["held"]
        go()
    assert works.verdicts(dispatch(requestid="d3")) == ["opened"]
    works.send_all()
    assert works.states() == ["ended", "released", "orphaned", "released"]
    assert [entry[1] for entry in works.ledger()] == ["d2", "r2", "d", "d3", "r"]
    works.amiss["redispatched"] = 1  # nobody could know that the first would arrive


@pytest.mark.parametrize("first", ["settle", "record"])
def test_accepted_as_a_newer_one_is_recorded(works: Works, first: str) -> None:
    """Of a late acceptance and a new dispatch at the same moment the second sees what the first has done."""
    works.record(dispatch(requestid="d"))
    with works.stalled("answer") as go:
        given_up(works)
        meet(works, first, settle=go, record=lambda: works.verdicts(dispatch(requestid="d2")))
    if first == "settle":  # the second is a duplicate of what is dispatched after all
        assert works.states() == ["dispatched"]
        works.record(release(requestid="r"))
    else:
        assert works.states() == ["ended", "pending"]
        assert works.verdicts(release(requestid="r")) == ["remembered"]
    works.send_all()
    assert works.row().state == "released"
    sent = [entry[1] for entry in works.ledger()]
    assert sent == ["d", *(["d2"] if first == "record" else []), "r"]
    works.amiss["redispatched"] = int(first == "record")
