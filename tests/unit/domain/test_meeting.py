"""What a job comes to when it meets what is known of its externalid: every cell of the table."""

from collections.abc import Sequence

import pytest

from tests.factories import GRACE, dispatch, release, row
from worker.domain.job import interaction, size
from worker.domain.lifecycle import FINAL, IN_WORK, NEVER, NOW, Interaction, State
from worker.domain.meeting import LEAVES_NO_MARK, Ask, Family, Met, Verdict, meet

S, V = State, Verdict


def family(*rows: Interaction, held: frozenset[str] = frozenset()) -> Family:
    """Make a family of lifecycles, the newest ended one last."""
    made = Family(GRACE, held)
    for it in rows:
        if it.dispatch_requestid:
            made.by_dispatch[it.dispatch_requestid] = it
        if it.state is S.WAITING:
            made.waiting = it
        elif it.state in FINAL:
            made.newest = it
        elif not it.is_hold:
            made.open = it
    return made


def known(name: str) -> list[Interaction]:
    """Make what is known of the externalid: one lifecycle in a state, or a predecessor too."""
    sort, _, unsure = name.partition(" ")
    if sort == "nothing":
        return []
    if sort == "waiting":
        return [row(S.RELEASING, dispatch_requestid="P"), row(S.WAITING)]
    it = row(S(sort), unsure=[7] if unsure == "unsure" else [])
    if unsure == "remembered":
        it.release_requestid, it.unsure = "L", [7]
    return [it]


# what is known -> what a dispatch comes to: plain, again, import
DISPATCHES: dict[str, tuple[Verdict, Verdict, Verdict]] = {
    "nothing": (V.OPENED, V.OPENED, V.OPENED),
    "awaiting_dispatch": (V.CANCELLED, V.CANCELLED, V.CANCELLED),
    "waiting": (V.DUPLICATE, V.DUPLICATE, V.DUPLICATE),
    "pending": (V.DUPLICATE, V.DUPLICATE, V.DUPLICATE),
    "pending unsure": (V.DUPLICATE, V.DUPLICATE, V.DUPLICATE),
    "pending remembered": (V.WAITS, V.WAITS, V.DUPLICATE),
    "dispatched": (V.DUPLICATE, V.OPENED, V.DUPLICATE),
    "releasing": (V.WAITS, V.WAITS, V.DUPLICATE),
    "released": (V.OPENED, V.OPENED, V.DUPLICATE),
    "cancelled": (V.OPENED, V.OPENED, V.DUPLICATE),
    "ended": (V.OPENED, V.OPENED, V.DUPLICATE),
    "failed": (V.OPENED, V.OPENED, V.DUPLICATE),
    "failed unsure": (V.OPENED, V.OPENED, V.DUPLICATE),
    "release_failed": (V.OPENED, V.OPENED, V.DUPLICATE),
    "orphaned": (V.OPENED, V.OPENED, V.DUPLICATE),
}

# what is known -> what a release comes to: plain, naming that dispatch, forced; and the row's state afterwards
RELEASES: dict[str, tuple[Verdict, Verdict, Verdict, State | None]] = {
    "nothing": (V.HELD, V.HELD, V.RELEASING, None),
    "waiting": (V.CANCELLED, V.CANCELLED, V.CANCELLED, S.CANCELLED),
    "pending": (V.CANCELLED, V.CANCELLED, V.CANCELLED, S.CANCELLED),
    "pending unsure": (V.REMEMBERED, V.REMEMBERED, V.REMEMBERED, S.PENDING),
    "pending remembered": (V.NOTHING, V.NOTHING, V.NOTHING, S.PENDING),
    "dispatched": (V.RELEASING, V.RELEASING, V.RELEASING, S.RELEASING),
    "releasing": (V.NOTHING, V.NOTHING, V.NOTHING, S.RELEASING),
    "released": (V.NOTHING, V.NOTHING, V.RELEASING, S.RELEASED),
    "cancelled": (V.NOTHING, V.NOTHING, V.RELEASING, S.CANCELLED),
    "ended": (V.RELEASING, V.RELEASING, V.RELEASING, S.RELEASING),
    "failed": (V.CANCELLED, V.CANCELLED, V.CANCELLED, S.CANCELLED),
    "failed unsure": (V.RELEASING, V.RELEASING, V.RELEASING, S.RELEASING),
    "release_failed": (V.RELEASING, V.RELEASING, V.RELEASING, S.RELEASING),
    # the release that goes again has the requestid that may have been processed; the new one is let be
    "release_failed unsure": (V.NOTHING, V.NOTHING, V.NOTHING, S.RELEASING),
}

CANCELLED = {
    "waiting": "released before it was sent",
    "pending": "released before it was sent",
    "failed": "released; its dispatch was never accepted",
}


def assert_whole(it: Family, rows: Sequence[Interaction]) -> None:
    """Check what must hold of any externalid's lifecycles."""
    everything = [*rows, *it.added]
    opened = [r for r in everything if r.state not in FINAL and r.state is not S.WAITING and not r.is_hold]
    waiting = [r for r in everything if r.state is S.WAITING]
    assert len(opened) <= 1
    assert len(waiting) <= 1
    assert it.open is (opened[0] if opened else None)
    assert it.waiting is (waiting[0] if waiting else None)
    assert it.newest is None or it.newest.state in FINAL
    for r in everything:
        assert (r.due is not None) == (r.state in IN_WORK | {S.AWAITING_DISPATCH})


def assert_carries(it: Interaction, ask: Ask) -> None:
    """Check that the row carries what the dispatch asks for, and its size on the wire."""
    job = ask.job
    wire = interaction("dispatch", ask.requestid, job.externalid, job.route, job.request())
    assert (it.externalid, it.dispatch_requestid, it.route) == (job.externalid, ask.requestid, job.route)
    assert (it.lane, it.provider) == (job.lane, job.provider or "")
    assert (it.request, it.bytes) == (job.request(), size(wire))


def meeting(rows: Sequence[Interaction], ask: Ask) -> tuple[Met, Family]:
    """Let a job meet these rows, and check what holds in any case."""
    for it in rows:
        it.due = NOW if it.state in IN_WORK | {S.AWAITING_DISPATCH} else None
    met_by = family(*rows)
    met = meet(met_by, ask)
    assert_whole(met_by, rows)
    assert met.row is not None
    assert any(met.row is it for it in (*rows, *met_by.added))
    if met.verdict in LEAVES_NO_MARK:  # so that the timeline shows something of it
        assert met.detail
    elif ask.job.action == "dispatch":
        assert_carries(met.row, ask)
    assert met.verdict in LEAVES_NO_MARK or met.row.changed or met.row in met_by.added
    return met, met_by


def test_tables_are_complete() -> None:
    """The two tables have a line for every state that can be met."""
    states = set(map(str, State))
    assert {name.split()[0] for name in DISPATCHES} == states | {"nothing"}
    # the two that a release has to do with otherwise have tests of their own
    assert {name.split()[0] for name in RELEASES} == states - {"awaiting_dispatch", "orphaned"} | {"nothing"}


@pytest.mark.parametrize("door", ["plain", "again", "import"])
@pytest.mark.parametrize("name", DISPATCHES)
def test_dispatch(name: str, door: str) -> None:
    """A dispatch opens a lifecycle, waits, is a duplicate, or is cancelled by a release that came first."""
    door_of = "import" if door == "import" else "job"
    ask = dispatch(again=door == "again", door=door_of, lane="backlog", provider="P", extra={"x": 1})
    rows = known(name)
    before = [it.state for it in rows]
    met, after = meeting(rows, ask)
    assert met.verdict is DISPATCHES[name][["plain", "again", "import"].index(door)]
    if met.verdict is V.OPENED:
        assert after.open is met.row
        assert met.row is not None
        assert (met.row.state, met.row.dispatch_requestid, met.row.due) == (S.PENDING, ask.requestid, NOW)
    if met.verdict is V.WAITS:
        assert after.waiting is met.row
        assert met.row is not None
        assert not met.row.may_hold  # that is known when the one before has settled
        assert [it.state for it in rows] == before
    if met.verdict is V.DUPLICATE:
        there = (
            "imported before" if door == "import" and name != "waiting" else f"one is {before[-1]} already"
        )
        assert met.detail == f"duplicate dispatch ignored: {there}"
        assert ([it.state for it in rows], after.added) == (before, [])


@pytest.mark.parametrize("door", ["plain", "named", "force"])
@pytest.mark.parametrize("name", RELEASES)
def test_release(name: str, door: str) -> None:
    """A release is sent, remembered, held, cancels a dispatch that was not sent, or comes to nothing."""
    ask = release(
        dispatch_requestid="D" if door == "named" else None, door="force" if door == "force" else "job"
    )
    rows = known(name)
    met, after = meeting(rows, ask)
    *verdicts, state = RELEASES[name]
    assert met.verdict is verdicts[["plain", "named", "force"].index(door)]
    if rows:
        assert rows[-1].state is state
    if met.verdict in (V.RELEASING, V.REMEMBERED, V.HELD, V.CANCELLED):
        assert met.row is not None
        assert met.row.release_requestid == ask.requestid
        assert "release_requested" in met.row.marks or name == "release_failed"  # it has its time already
    if met.verdict is V.RELEASING:
        assert after.open is met.row
    if met.verdict is V.CANCELLED:
        assert rows[-1].reason == CANCELLED[name]


@pytest.mark.parametrize(
    ("name", "may_hold"),
    [
        ("released", False),
        ("cancelled", False),
        ("failed", False),
        ("orphaned", False),
        ("ended", True),
        ("failed unsure", True),
        ("release_failed", True),
    ],
)
def test_new_lifecycle_knows_what_the_last_one_left(name: str, may_hold: bool) -> None:
    """Where VCC may still hold the externalid, the new lifecycle's release is sent whatever happens."""
    met, _ = meeting(known(name), dispatch())
    assert met.row is not None
    assert met.row.may_hold is may_hold


def test_again_ends_the_dispatched_one() -> None:
    """A customer who writes again gets a new lifecycle, and VCC may hold the old one."""
    old = row(S.DISPATCHED)
    met, _ = meeting([old], dispatch(again=True))
    assert (old.state, old.reason) == (S.ENDED, "superseded: the customer wrote again")
    assert met.row is not None
    assert met.row.may_hold


def test_release_of_a_lifecycle_that_may_hold_is_never_dropped() -> None:
    """A lifecycle behind one that was superseded remembers its release even before it was sent."""
    it = row(S.PENDING, may_hold=True)
    met, _ = meeting([it], release())
    assert met.verdict is V.REMEMBERED


def test_import_takes_again() -> None:
    """An import with the word again opens where it would have found a duplicate."""
    assert meeting(known("released"), dispatch(door="import", again=True))[0].verdict is V.OPENED
    assert meeting(known("dispatched"), dispatch(door="import", again=True))[0].verdict is V.OPENED


@pytest.mark.parametrize(
    ("ask", "verdict", "state", "detail"),
    [
        (
            release(),
            V.NOTHING,
            S.AWAITING_DISPATCH,
            "release ignored: one is held for the dispatch already",
        ),
        (release(dispatch_requestid="D"), V.HELD, S.AWAITING_DISPATCH, ""),
        (release(door="force", provider="P"), V.RELEASING, S.RELEASING, "released by force"),
    ],
)
def test_release_meets_a_held_one(ask: Ask, verdict: Verdict, state: State, detail: str) -> None:
    """A second release adds nothing to a held one, one that names a dispatch is held beside it, force sends it."""
    it = row(S.AWAITING_DISPATCH)
    met, _ = meeting([it], ask)
    assert (met.verdict, it.state, met.detail) == (verdict, state, detail)
    if verdict is V.RELEASING:  # under the new requestid: the old one is kept, for it may come again
        assert (it.provider, it.release_requestid, met.replaced) == ("P", ask.requestid, "L")
    else:
        assert (it.provider, it.release_requestid, met.replaced) == ("", "L", None)


def test_dispatch_meets_its_release() -> None:
    """A dispatch whose release came first is over, and says why."""
    it = row(S.AWAITING_DISPATCH)
    met, after = meeting([it], dispatch())
    assert (met.verdict, it.reason) == (V.CANCELLED, "released before its dispatch came")
    assert (after.open, after.newest) == (None, it)


def test_dispatch_meets_a_release_that_has_to_be_sent() -> None:
    """Where VCC may hold an older lifecycle, the dispatch is sent, and after it the release that came first."""
    it = row(S.AWAITING_DISPATCH, may_hold=True)
    met, _ = meeting([it], dispatch())
    assert (met.verdict, met.row, it.state, it.due) == (V.OPENED, it, S.PENDING, NOW)
    assert it.release_remembered


def test_forced_release_keeps_the_provider_that_is_known() -> None:
    """A held release that is sent by force and names no provider goes under the one that it had."""
    it = row(S.AWAITING_DISPATCH, provider="P")
    meeting([it], release(door="force"))
    assert it.provider == "P"


@pytest.mark.parametrize(("given", "provider"), [({"provider": "P"}, "P"), ({}, "")])
def test_forced_release_of_what_is_not_known(given: dict[str, str], provider: str) -> None:
    """What was dispatched elsewhere is released at once, under the provider that the job names."""
    met, _ = meeting([], release("else", "L", door="force", **given))
    assert met.row is not None
    assert (met.row.externalid, met.row.provider, met.row.due) == ("else", provider, NOW)
    assert met.row.bytes == len('{"action":"release","requestid":"L","externalid":"else"}')


@pytest.mark.parametrize("named", [None, "D"])
def test_held_release(named: str | None) -> None:
    """A release that came first waits in its lane for the grace period; the same one again finds it held."""
    it = family()
    met = meet(it, release("first", "L", lane="backlog", dispatch_requestid=named))
    assert met.row is not None
    assert (met.row.externalid, met.row.lane, met.row.due) == ("first", "backlog", GRACE)
    assert (met.row.release_requestid, met.row.dispatch_requestid) == ("L", named)
    again = meet(it, release("first", dispatch_requestid=named))
    assert (again.verdict, again.row) == (V.NOTHING, met.row)


@pytest.mark.parametrize(
    ("ask", "verdict"), [(release(), V.HELD), (release(door="force"), V.RELEASING)], ids=["plain", "force"]
)
def test_release_after_an_orphan(ask: Ask, verdict: Verdict) -> None:
    """A release after one that was orphaned is held afresh, or forced."""
    assert meeting([row(S.ORPHANED)], ask)[0].verdict is verdict


def test_release_names_an_orphan() -> None:
    """A release for a dispatch whose release was orphaned already changes nothing."""
    met, _ = meeting([row(S.ORPHANED, dispatch_requestid="D")], release(dispatch_requestid="D"))
    assert met.verdict is V.NOTHING


def test_dispatch_of_an_orphan() -> None:
    """A dispatch whose release has waited in vain is not sent: it was released before it came."""
    it = row(S.ORPHANED, dispatch_requestid="D")
    met, after = meeting([it], dispatch(requestid="D"))
    assert (met.verdict, met.row, it.state, after.added) == (V.NOTHING, it, S.ORPHANED, [])
    assert met.detail == "dispatch ignored: its release had come, and the grace period is over"


def test_dispatch_and_its_release_by_name_in_one_batch() -> None:
    """A release finds the dispatch that it names also where that came a moment before."""
    it = family()
    opened = meet(it, dispatch(requestid="D"))
    met = meet(it, release(dispatch_requestid="D"))
    assert (met.verdict, met.row) == (V.CANCELLED, opened.row)


def test_held_by_name_waits_beside_the_open_one() -> None:
    """A release that names a dispatch which has not come leaves the open lifecycle alone."""
    it = row(S.DISPATCHED, dispatch_requestid="OLD")
    met, after = meeting([it], release(dispatch_requestid="NEW"))
    assert (met.verdict, it.state) == (V.HELD, S.DISPATCHED)
    assert met.row is not None
    assert (met.row.due, met.row.is_hold, after.open) == (GRACE, True, it)


def test_second_release_by_name() -> None:
    """A second release for a dispatch that has not come adds nothing to the first, and is no open lifecycle."""
    hold = row(S.AWAITING_DISPATCH, dispatch_requestid="D")
    met, after = meeting([hold], release(dispatch_requestid="D"))
    assert (met.verdict, hold.release_requestid, after.open) == (V.NOTHING, "L", None)


def test_dispatch_meets_the_release_that_names_it() -> None:
    """The dispatch that a release was held for is never sent, whatever else is open."""
    it = row(S.DISPATCHED, dispatch_requestid="OLD")
    hold = row(S.AWAITING_DISPATCH, dispatch_requestid="NEW")
    met, after = meeting([it, hold], dispatch(requestid="NEW", provider="P"))
    assert (met.verdict, met.row, hold.state, after.open) == (V.CANCELLED, hold, S.CANCELLED, it)
    assert hold.reason == "released before its dispatch came"


def test_again_meets_the_release_that_names_it() -> None:
    """Where the dispatch also ends the open lifecycle, VCC may hold that: both dispatch and release are sent."""
    it = row(S.DISPATCHED, dispatch_requestid="OLD")
    hold = row(S.AWAITING_DISPATCH, dispatch_requestid="NEW")
    met, after = meeting([it, hold], dispatch(requestid="NEW", provider="P", again=True))
    assert (met.verdict, met.row, it.state, hold.state) == (V.OPENED, hold, S.ENDED, S.PENDING)
    assert (after.open, hold.may_hold, hold.release_remembered) == (hold, True, True)


@pytest.mark.parametrize("name", ["ended", "failed unsure", "release_failed"])
def test_release_by_name_leaves_a_newer_lifecycle_alone(name: str) -> None:
    """What is over is not released any more once a newer lifecycle has the externalid."""
    old, new = known(name)[0], row(S.DISPATCHED, dispatch_requestid="NEW")
    before = old.state
    met, after = meeting([old, new], release(dispatch_requestid="D"))
    assert (met.verdict, old.state, new.state) == (V.NOTHING, before, S.DISPATCHED)
    assert after.open is new
    assert met.detail == "release ignored: a newer lifecycle has the externalid"


def test_failed_one_is_cancelled_beside_a_newer() -> None:
    """A release by name of what was certainly refused ends it, whatever is open."""
    old, new = row(S.FAILED), row(S.DISPATCHED, dispatch_requestid="NEW")
    met, _ = meeting([old, new], release(dispatch_requestid="D"))
    assert (met.verdict, old.state, new.state) == (V.CANCELLED, S.CANCELLED, S.DISPATCHED)


def test_held_route_takes_jobs_in_and_keeps_them() -> None:
    """A dispatch for a held route is recorded and waits for an operator."""
    it = family(held=frozenset("R"))
    met = meet(it, dispatch())
    assert met.verdict is V.OPENED
    assert met.row is not None
    assert met.row.due == NEVER


@pytest.mark.parametrize(
    ("held", "call", "due"), [("R", None, NOW), ("R", 7, 9.0), ("S", None, 9.0)], ids=["held", "sent", "free"]
)
def test_held_route_does_not_keep_a_release(held: str, call: int | None, due: float) -> None:
    """A dispatch that was perhaps sent, and waits with its route, goes on at once when its release comes."""
    it = row(S.PENDING, unsure=[7], call=call, due=9.0)
    assert meet(family(it, held=frozenset(held)), release()).verdict is V.REMEMBERED
    assert it.due == due


def test_second_release_of_a_failed_one_takes_the_place_of_the_first() -> None:
    """A release that was refused goes again under the new job's requestid; the old one is kept."""
    it = row(S.RELEASE_FAILED)
    met, _ = meeting([it], release(requestid="NEW"))
    assert (met.replaced, it.release_requestid) == ("L", "NEW")
    assert met.detail == "released again after it had failed"


def test_lifecycles_of_one_batch_in_their_order() -> None:
    """Dispatch, release, dispatch and release of one externalid in one batch are four steps."""
    it = family()
    asks = [dispatch(), release(), dispatch(), release(), release(), dispatch()]
    verdicts = [meet(it, ask).verdict for ask in asks]
    assert verdicts == [V.OPENED, V.CANCELLED, V.OPENED, V.CANCELLED, V.NOTHING, V.OPENED]
    assert_whole(it, [])


def test_old_lifecycle_does_not_pass_for_the_newest() -> None:
    """A release that names a lifecycle long over leaves the newest one to the release after it."""
    old, new = row(S.RELEASED, dispatch_requestid="OLD"), row(S.ENDED, dispatch_requestid="NEW")
    it = family(old, new)
    assert meet(it, release(dispatch_requestid="OLD")).verdict is V.NOTHING
    assert meet(it, release()).verdict is V.RELEASING
    assert new.state is S.RELEASING


def test_release_of_the_open_one_leaves_the_ended_one() -> None:
    """Behind a lifecycle that is released the one that ended before is still the newest ended one."""
    old, new = row(S.ENDED, dispatch_requestid="OLD"), row(S.DISPATCHED)
    _, after = meeting([old, new], release())
    assert (after.open, after.newest) == (new, old)


def test_release_carries_the_provider_of_its_dispatch() -> None:
    """Whatever provider a release names, that of the dispatch counts."""
    it = row(S.DISPATCHED, provider="P")
    meeting([it], release(provider="Q"))
    assert (it.state, it.provider) == (S.RELEASING, "P")
