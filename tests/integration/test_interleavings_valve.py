"""The valve, the clock and the operator in an unlucky order: what the table says of it, and what the API saw."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.factories import dispatch, release, together
from tests.stories import Works
from tests.waiting import until
from worker.delivery.deliver import deliver_once
from worker.domain.outcome import Outcome
from worker.store import gate
from worker.store.gate import Reading
from worker.vonage.invoke import Api


def pause(works: Works) -> None:
    """Close the valve by hand."""
    with works.engine.begin() as conn:
        gate.pause(conn, "weekend")


def resume(works: Works) -> None:
    """Take the pause back."""
    with works.engine.begin() as conn:
        gate.resume(conn)


def read(works: Works) -> Reading:
    """Read the valve."""
    with works.engine.connect() as conn:
        return gate.read(conn)


# --- a pause that is longer than anything is tried ------------------------------------------------


def test_weekend_over_what_was_never_sent(works: Works) -> None:
    """What certainly never reached the API outlives any pause, and goes out when it is over."""
    works.simulator.faults(throttle={"calls": 1})
    works.record(dispatch("tried", "d1"))
    works.send()
    pause(works)
    works.record(dispatch("new", "d2"))
    works.age("3 days")
    assert works.sweep()["given up"] == 0
    assert works.send() == 0
    resume(works)
    works.send_all()
    assert works.counts() == {"dispatched": 2}
    assert works.ledger("tried") + works.ledger("new") == [("dispatch", "d1", None), ("dispatch", "d2", None)]


@pytest.mark.parametrize("released", ["before", "after"])
def test_weekend_over_what_was_perhaps_sent(works: Works, released: str) -> None:
    """What may have reached the API is not sent again after a long pause; its release is, whenever it comes."""
    works.simulator.faults(cut_after={"calls": 1})
    works.record(dispatch(requestid="d", provider="P"))
    works.send()
    pause(works)
    if released == "before":
        assert works.verdicts(release(requestid="r")) == ["remembered"]
    works.age("3 days")
    resume(works)
    assert works.send() == 0  # the worker that is back before the sweep leaves it alone
    assert works.sweep()["given up"] == 1
    if released == "after":
        assert (works.row().state, works.row().unsure) == ("failed", [1])
        assert works.verdicts(release(requestid="r")) == ["releasing"]
    works.send_all()
    assert works.states() == ["released"]
    assert works.ledger() == [("dispatch", "d", "P"), ("release", "r", "P")]
    assert works.book("repeated_requestids") == [0]


# --- 429 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [None, 30])
def test_four_throttled_at_once(works: Works, retry_after: int | None) -> None:
    """Four calls that are throttled together move the valve once, teach one rate, and cost no row an attempt."""
    names = [f"e{n}" for n in range(4)]
    works.record(*[dispatch(name) for name in names])
    works.simulator.faults(throttle={"calls": 4, "retry_after": retry_after})
    with ExitStack() as stack:
        calls = [stack.enter_context(works.stalled(max_requests=1)) for _ in names]
        # in the last second, however slowly they were made
        works.run("update invocations set started_at = now() + interval '1 minute'")
        together(*calls)
    (valve,) = works.all("select *, extract(epoch from closed_until - now()) as wait from gate")
    assert (valve.failures, valve.reason, valve.rate) == (1, "throttled", 2.0)
    if not retry_after:  # what the API asks for counts in any epoch, by a hair's breadth here
        assert valve.epoch == 1
    assert valve.wait <= (retry_after or 1.25)
    for name in names:
        row = works.row(name)
        assert (row.attempts, row.unsure, row.call, row.first_sent_at, row.is_due) == (
            0,
            [],
            None,
            None,
            True,
        )
    works.run("update gate set closed_until = closed_until + interval '1 minute'")  # however slow we are
    assert works.send() == 0
    works.send_all()
    assert works.counts() == {"dispatched": 4}
    assert [len(works.ledger(name)) for name in names] == [1, 1, 1, 1]
    assert works.book("repeated_requestids") == [0]


@pytest.mark.parametrize("resumed", ["before the answer", "after the answer"])
def test_pause_during_a_429(works: Works, resumed: str) -> None:
    """An operator's pause and its end shorten nothing that the API has asked for meanwhile."""
    works.record(dispatch(requestid="d"))
    works.simulator.faults(throttle={"calls": 1, "retry_after": 1})
    with works.stalled("answer") as go:
        pause(works)
        if resumed == "before the answer":
            resume(works)
        go()
    if resumed == "after the answer":
        assert read(works).reason == "paused"
        resume(works)
    now = read(works)
    assert (now.open, now.reason) == (False, "throttled")
    until(lambda: works.send() or works.row().state == "dispatched")
    assert works.book("calls_by_status", "calls_while_throttled") == [{"429": 1, "200": 1}, 0]
    assert works.ledger() == [("dispatch", "d", None)]


# --- a probe --------------------------------------------------------------------------------------


class DiedError(Exception):
    """Stands for the end of a process: nothing that comes after it is done."""


class Deadly:
    """An API whose caller dies, before the request leaves or before the answer is read."""

    def __init__(self, api: Api, stage: str) -> None:
        self._api, self._stage = api, stage

    def invoke(self, body: bytes) -> Outcome:
        """Make the call, or not, and die."""
        if self._stage == "answer":
            self._api.invoke(body)
        raise DiedError


@pytest.mark.parametrize("stage", ["claim", "request", "answer"])
def test_prober_dies(works: Works, stage: str) -> None:
    """A probe whose worker dies keeps the others waiting for its lease only; what it carried goes out once."""
    works.simulator.faults(cut_before={"calls": 1})
    works.record(dispatch("e", "d"))
    works.send()
    works.open_valve()
    works.make_due()
    if stage == "claim":
        assert works.passage().probe
    else:
        dying = replace(works.bench, api=Deadly(works.bench.api, stage))
        with pytest.raises(DiedError):
            deliver_once(dying)
    works.record(dispatch("f", "g"))
    works.make_due()
    assert works.send() == 0
    assert works.counts() == {"pending": 2}
    works.age("1 hour")
    works.send_all()
    assert works.counts() == {"dispatched": 2}
    assert read(works).open
    assert works.ledger("e") + works.ledger("f") == [("dispatch", "d", None), ("dispatch", "g", None)]
    assert works.book("repeated_requestids") == [int(stage == "answer")]
