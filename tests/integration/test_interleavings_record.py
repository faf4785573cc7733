"""Jobs that come twice, out of order, or two at the same moment: what is recorded, and what the API saw of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.factories import GRACE, LEASE, Store, dispatch, release, together
from tests.stories import Works
from tests.waiting import until
from worker.delivery.deliver import Load, carry
from worker.domain.job import LIMIT, envelope
from worker.domain.meeting import Ask
from worker.store.claim import Terms
from worker.store.gate import Passage
from worker.store.record import record_and_claim

STRAIGHT = Terms(500, LIMIT - envelope(""), LEASE)

STALL = """
    create function stall() returns trigger language plpgsql as
        $$ begin perform pg_advisory_xact_lock_shared(77); return null; end $$;
    create trigger stall after insert on interactions for each statement execute function stall()
"""


def straight(store: Store, ask: Ask) -> list[str]:
    """Record a job as a reader does that sends it straight on: claimed in the same transaction, if it may be."""
    with store.engine.connect() as conn:
        return [one.verdict for one in record_and_claim(conn, [ask], GRACE, STRAIGHT)[0]]


WAYS: dict[str, Callable[[Store, Ask], list[str]]] = {"recorded": Store.verdicts, "straight on": straight}


# --- the same job again, when all is over ---------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_duplicate_comes_again_after_the_end(works: Works, way: str) -> None:
    """A dispatch that was a duplicate once opens nothing when its message comes again after the lifecycle's end."""
    works.record(dispatch(requestid="d"))
    works.send()
    duplicate = dispatch(requestid="d2")
    assert works.verdicts(duplicate) == ["duplicate"]
    works.record(release(requestid="r"))
    works.send()
    assert WAYS[way](works, duplicate) == ["repeated"]
    assert works.send() == 0
    assert works.states() == ["released"]
    assert works.ledger() == [("dispatch", "d", None), ("release", "r", None)]


@pytest.mark.parametrize("way", WAYS)
def test_needless_release_comes_again_after_the_end(works: Works, way: str) -> None:
    """A release that had nothing to release does not touch the next lifecycle when its message comes again."""
    works.record(dispatch(requestid="d"))
    works.send()
    works.record(release(requestid="r"))
    works.send()
    needless = release(requestid="r2")
    assert works.verdicts(needless) == ["nothing"]
    works.record(dispatch(requestid="d2"))
    works.send()
    assert WAYS[way](works, needless) == ["repeated"]
    assert works.send() == 0
    assert works.states() == ["released", "dispatched"]
    assert [entry[1] for entry in works.ledger()] == ["d", "r", "d2"]


# --- out of order ---------------------------------------------------------------------------------


def test_release_that_overtakes_the_second_dispatch(works: Works) -> None:
    """A release that names no dispatch is for the one that is there: the second is dispatched, and stays."""
    works.record(dispatch(requestid="d"))
    works.send()
    assert works.verdicts(release(requestid="r2"), dispatch(requestid="d2", again=True)) == [
        "releasing",
        "waits",
    ]
    works.send_all()
    assert works.states() == ["released", "dispatched"]
    assert [entry[1] for entry in works.ledger()] == ["d", "r2", "d2"]


@pytest.mark.parametrize("again", [True, False])
def test_release_by_name_that_overtakes_the_second_dispatch(works: Works, again: bool) -> None:
    """A release that names the second dispatch waits for it beside the first, and then ends it."""
    works.record(dispatch(requestid="d", provider="P"))
    works.send()
    assert works.verdicts(release(requestid="r2", dispatch_requestid="d2")) == ["held"]
    assert works.send() == 0
    second = dispatch(requestid="d2", provider="P", again=again)
    if again:
        assert works.verdicts(second) == ["opened"]
        works.send_all()
        assert works.states() == ["ended", "released"]
        assert works.ledger()[1:] == [("dispatch", "d2", "P"), ("release", "r2", "P")]
        works.amiss["redispatched"] = 1  # the customer wrote again
    else:  # it would have been a duplicate; the first one is nobody's to release yet
        assert works.verdicts(second) == ["cancelled"]
        assert works.send() == 0
        assert works.states() == ["dispatched", "cancelled"]


# --- two at the same moment -----------------------------------------------------------------------


@contextmanager
def inserts_stalled(works: Works) -> Iterator[None]:
    """Let whoever inserts a lifecycle wait, before its commit, for as long as this is entered."""
    works.run(STALL)
    with works.engine.begin() as conn:
        conn.exec_driver_sql("select pg_advisory_xact_lock(77)")
        yield


JOBS: dict[str, Callable[[str], Ask]] = {
    "dispatch": lambda requestid: dispatch(requestid=requestid),
    "release": lambda requestid: release(requestid=requestid),
}
MEETINGS = [
    ("recorded", "dispatch", "dispatch", ["opened", "duplicate"], "dispatched", ["a"]),
    ("straight on", "dispatch", "dispatch", ["opened", "duplicate"], "dispatched", ["a"]),
    ("recorded", "dispatch", "release", ["opened", "cancelled"], "cancelled", []),
    ("straight on", "dispatch", "release", ["opened", "remembered"], "released", ["a", "b"]),
    ("recorded", "release", "dispatch", ["held", "cancelled"], "cancelled", []),
    ("straight on", "release", "dispatch", ["held", "cancelled"], "cancelled", []),
    ("recorded", "release", "release", ["held", "nothing"], "awaiting_dispatch", []),
]


@pytest.mark.parametrize(("way", "first", "second", "verdicts", "state", "sent"), MEETINGS)
def test_two_recorders_of_one_new_externalid(
    works: Works, way: str, first: str, second: str, verdicts: list[str], state: str, sent: list[str]
) -> None:
    """Who finds that another has just opened the lifecycle, not committed yet, waits for it and meets it."""
    record = WAYS[way]
    with inserts_stalled(works):
        ends = works.queue(
            lambda: record(works, JOBS[first]("a")),
            lambda: record(works, JOBS[second]("b")),
        )
    assert [end.result(60)[0] for end in ends] == verdicts
    works.send_all()
    assert works.states() == [state]
    assert [entry[1] for entry in works.ledger()] == sent
    assert works.verdicts(JOBS[first]("a"), JOBS[second]("b")) == ["repeated", "repeated"]


def send_straight_on(works: Works, ask: Ask) -> None:
    """Record a job, and send at once what was claimed with it."""
    with works.engine.connect() as conn:
        claim = record_and_claim(conn, [ask], GRACE, STRAIGHT)[1]
    if claim is not None:
        passage = Passage(claim.epoch or 0, probe=False, wait=0.0, turn=0, ailing=False)
        carry(works.bench, Load(passage, claim, time.monotonic(), fresh=True))


@pytest.mark.parametrize("seen", [False, True])
def test_dispatches_and_their_releases_from_two_sides(works: Works, seen: bool) -> None:
    """Be a release recorded at once with its dispatch or while that is being sent, nothing stays dispatched."""
    names = [f"e{n}" for n in range(30)]

    def release_it(name: str) -> None:
        if seen:
            until(lambda: works.one("select count(*) from interactions where externalid = %(e)s", e=name))
        send_straight_on(works, release(name, dispatch_requestid=f"d-{name}"))

    for name in names:
        first = dispatch(name, f"d-{name}", provider="P")
        together(
            lambda first=first: send_straight_on(works, first),
            lambda name=name: release_it(name),
        )
    works.send_all()
    assert set(works.counts()) <= {"cancelled", "released"}
    assert sum(works.counts().values()) == len(names)
    assert works.book("interactions")[0]["dispatched"] == 0
    for name in names:
        sent = [(action, provider) for action, _, provider in works.ledger(name)]
        assert sent in ([], [("dispatch", "P"), ("release", "P")])
