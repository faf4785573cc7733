"""What happens when a job meets what is already known of its ``externalid``: pure.

``record`` locks the lifecycles that a job can meet, puts them into a ``Family``, lets each job ``meet`` it in
turn, and writes what changed. So several jobs about one externalid in one batch are settled in their order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from worker.domain import lifecycle as life
from worker.domain.job import Job, interaction, size
from worker.domain.lifecycle import NOW, Interaction, State


class Verdict(StrEnum):
    """What a job came to."""

    OPENED = "opened"  # a dispatch to be sent
    WAITS = "waits"  # a dispatch to be sent when the release before it has settled
    DUPLICATE = "duplicate"  # a dispatch of what is dispatched already; nothing is sent
    REPEATED = "repeated"  # its requestid has been here before; nothing changes
    RELEASING = "releasing"  # a release to be sent
    REMEMBERED = "remembered"  # a release to be sent when the dispatch has settled
    HELD = "held"  # a release that came before its dispatch
    CANCELLED = "cancelled"  # dispatch and release met before anything was sent
    NOTHING = "nothing"  # a release of what is released already
    REJECTED = "rejected"  # can't be recorded


DUE = frozenset((Verdict.OPENED, Verdict.RELEASING))
"""Verdicts that leave something to be sent at once."""

LEAVES_NO_MARK = frozenset((Verdict.DUPLICATE, Verdict.NOTHING))
"""Verdicts whose requestid stands in no row afterwards: a receipt keeps it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A job with the requestid that it goes by.

    Attributes:
        requestid: the producer's, the message's, or one made for it.
        known: the requestid came from outside, so that the same job may come again under it.
        door: which rules apply: ``job``; ``import``, to which an ended lifecycle is a duplicate too;
            ``force``, a release of what was dispatched elsewhere.
    """

    job: Job
    requestid: str
    known: bool = True
    door: str = "job"


@dataclass(slots=True)
class Family:
    """The lifecycles of one externalid that a job can meet.

    Attributes:
        open: the open one; a release held for a named dispatch does not count.
        waiting: the one that waits for the open one's release.
        newest: the newest ended one; before one that never reached the API, an older one that VCC may hold.
        by_dispatch: those that a release may name, and the holds, by ``dispatch_requestid``.
        held_routes: routes whose rows wait for an operator.
        grace: seconds that a release waits for its dispatch.
        added: rows to be inserted.
    """

    grace: float
    held_routes: frozenset[str] = frozenset()
    open: Interaction | None = None
    waiting: Interaction | None = None
    newest: Interaction | None = None
    by_dispatch: dict[str, Interaction] = field(default_factory=dict)
    added: list[Interaction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Met:
    """What a job came to.

    Attributes:
        verdict: in one word.
        row: the row that it is about.
        detail: a sentence for the timeline, where the row itself shows nothing of it.
        replaced: a requestid that no row carries any more because this job's took its place.
    """

    verdict: Verdict
    row: Interaction | None = None
    detail: str = ""
    replaced: str | None = None


def meet(family: Family, ask: Ask) -> Met:
    """Let a job meet its family: change the rows that it changes and say what it came to."""
    return (_release if ask.job.action == "release" else _dispatch)(family, ask)


# --- a dispatch ---------------------------------------------------------------------------------


def _dispatch(family: Family, ask: Ask) -> Met:
    hold = family.by_dispatch.get(ask.requestid)
    if hold is not None and hold.state is State.ORPHANED:
        return Met(
            Verdict.NOTHING, hold, "dispatch ignored: its release had come, and the grace period is over"
        )
    if hold is not None and hold.is_hold:
        return _meets_its_hold(family, ask, hold)
    row = family.open
    if family.waiting is not None:
        return _duplicate(family.waiting, "one is waiting already")
    if row is None:
        return _meets_nothing_open(family, ask)
    if row.state is State.AWAITING_DISPATCH:
        return _meets_its_release(family, ask, row)
    if ask.door == "import" and not ask.job.again:
        return _duplicate(row, "imported before")
    if row.state is State.RELEASING or row.release_remembered:
        return _add(family, ask, State.WAITING, Verdict.WAITS)
    if ask.job.again and row.state is State.DISPATCHED:
        _supersede(family, row)
        return _add(family, ask, State.PENDING, Verdict.OPENED, may_hold=True)
    return _duplicate(row, f"one is {row.state} already")


def _meets_nothing_open(family: Family, ask: Ask) -> Met:
    newest = family.newest
    if ask.door == "import" and not ask.job.again and newest is not None:
        return _duplicate(newest, "imported before")
    return _add(family, ask, State.PENDING, Verdict.OPENED, may_hold=newest is not None and newest.leftover)


def _meets_its_release(family: Family, ask: Ask, row: Interaction) -> Met:
    _fill(row, ask)
    if row.may_hold:  # an older lifecycle was accepted after all: the release has to be sent
        life.to_pending(row)
        return Met(Verdict.OPENED, row)
    life.move(row, State.CANCELLED, "released before its dispatch came")
    family.open, family.newest = None, row
    return Met(Verdict.CANCELLED, row)


def _meets_its_hold(family: Family, ask: Ask, hold: Interaction) -> Met:
    row = family.open
    if not (ask.job.again and row is not None and row.state is State.DISPATCHED):
        _fill(hold, ask)
        life.move(hold, State.CANCELLED, "released before its dispatch came")
        return Met(Verdict.CANCELLED, hold)
    # the earlier lifecycle ends with this one, so VCC may hold the externalid: the release has to be sent
    _supersede(family, row)
    _fill(hold, ask)
    hold.may_hold = True
    life.to_pending(hold)
    family.open = hold
    return Met(Verdict.OPENED, hold)


def _supersede(family: Family, row: Interaction) -> None:
    life.move(row, State.ENDED, "superseded: the customer wrote again")
    family.open, family.newest = None, row


def _duplicate(row: Interaction, detail: str) -> Met:
    return Met(Verdict.DUPLICATE, row, f"duplicate dispatch ignored: {detail}")


def _add(family: Family, ask: Ask, state: State, verdict: Verdict, *, may_hold: bool = False) -> Met:
    row = Interaction(ask.job.externalid, state, may_hold=may_hold)
    _fill(row, ask)
    family.added.append(row)
    family.by_dispatch[ask.requestid] = row
    if state is State.WAITING:
        row.due = None
        family.waiting = row
    else:
        row.due = _due(family, row)
        family.open = row
    return Met(verdict, row)


def _fill(row: Interaction, ask: Ask) -> None:
    job = ask.job
    row.lane, row.route, row.provider = job.lane, job.route, job.provider or ""
    row.request = job.request()
    row.dispatch_requestid = ask.requestid
    row.bytes = size(interaction("dispatch", ask.requestid, job.externalid, job.route, row.request))


def _due(family: Family, row: Interaction) -> float:
    return life.NEVER if row.route in family.held_routes else NOW


_NOT_OURS_TO_RELEASE = frozenset((State.RELEASED, State.CANCELLED, State.ORPHANED))


# --- a release ----------------------------------------------------------------------------------


def _release(family: Family, ask: Ask) -> Met:
    named = ask.job.dispatch_requestid
    if named is not None and named not in family.by_dispatch:
        return _hold(family, ask, named)
    row = family.by_dispatch[named] if named is not None else family.waiting or family.open or family.newest
    if ask.door == "force" and (row is None or row.state in _NOT_OURS_TO_RELEASE):
        return _force(family, ask)
    if row is None or (row.state is State.ORPHANED and named is None):
        return _hold(family, ask, None)
    met = _ON_RELEASE[row.state](family, row, ask)
    _resettle(family, row)
    return met


def _hold(family: Family, ask: Ask, named: str | None) -> Met:
    row = Interaction(ask.job.externalid, State.AWAITING_DISPATCH, due=family.grace, lane=ask.job.lane)
    row.dispatch_requestid = named
    life.request_release(row, ask.requestid)
    family.added.append(row)
    if named is None:
        family.open = row
    else:
        family.by_dispatch[named] = row
    return Met(Verdict.HELD, row)


def _force(family: Family, ask: Ask) -> Met:
    row = Interaction(ask.job.externalid, State.RELEASING, due=NOW, provider=ask.job.provider or "")
    life.request_release(row, ask.requestid)
    row.bytes = size(interaction("release", ask.requestid, row.externalid, None, {}))
    family.added.append(row)
    family.open = row
    return Met(Verdict.RELEASING, row)


def _on_held(family: Family, row: Interaction, ask: Ask) -> Met:
    if ask.door != "force":
        return Met(Verdict.NOTHING, row, "release ignored: one is held for the dispatch already")
    row.provider = ask.job.provider or row.provider
    replaced = row.release_requestid
    life.request_release(row, ask.requestid)
    life.to_releasing(row)
    return Met(Verdict.RELEASING, row, "released by force", replaced)


def _on_waiting(family: Family, row: Interaction, ask: Ask) -> Met:
    life.request_release(row, ask.requestid)
    life.move(row, State.CANCELLED, "released before it was sent")
    family.waiting = None
    return Met(Verdict.CANCELLED, row)


def _on_pending(family: Family, row: Interaction, ask: Ask) -> Met:
    if row.release_remembered:
        return Met(Verdict.NOTHING, row, "release ignored: one is remembered already")
    life.request_release(row, ask.requestid)
    if row.maybe_held:
        if row.call is None and row.route in family.held_routes:
            row.due = NOW  # the release must not wait for the operator too
        return Met(Verdict.REMEMBERED, row)
    life.move(row, State.CANCELLED, "released before it was sent")
    return Met(Verdict.CANCELLED, row)


def _on_dispatched(family: Family, row: Interaction, ask: Ask) -> Met:
    life.request_release(row, ask.requestid)
    life.to_releasing(row)
    return Met(Verdict.RELEASING, row)


def _on_over(family: Family, row: Interaction, ask: Ask) -> Met:
    """Send the release of a lifecycle that is over for us, unless a newer one has taken its externalid."""
    if family.open is not None:
        return Met(Verdict.NOTHING, row, "release ignored: a newer lifecycle has the externalid")
    return _on_dispatched(family, row, ask)


def _on_failed(family: Family, row: Interaction, ask: Ask) -> Met:
    if row.maybe_held:
        return _on_over(family, row, ask)
    life.request_release(row, ask.requestid)
    life.move(row, State.CANCELLED, "released; its dispatch was never accepted")
    return Met(Verdict.CANCELLED, row)


def _on_release_failed(family: Family, row: Interaction, ask: Ask) -> Met:
    if family.open is not None:
        return Met(Verdict.NOTHING, row, "release ignored: a newer lifecycle has the externalid")
    # the retry keeps the requestid that may have reached the API, else this job's own takes its place
    replaced = life.retry(row, ask.requestid)
    verdict = Verdict.RELEASING if replaced else Verdict.NOTHING
    return Met(verdict, row, "released again after it had failed", replaced)


def _ignored(family: Family, row: Interaction, ask: Ask) -> Met:
    return Met(Verdict.NOTHING, row, f"release ignored: it is {row.state} already")


_ON_RELEASE: dict[State, Callable[[Family, Interaction, Ask], Met]] = {
    State.AWAITING_DISPATCH: _on_held,
    State.WAITING: _on_waiting,
    State.PENDING: _on_pending,
    State.DISPATCHED: _on_dispatched,
    State.RELEASING: _ignored,
    State.RELEASED: _ignored,
    State.CANCELLED: _ignored,
    State.ENDED: _on_over,
    State.FAILED: _on_failed,
    State.RELEASE_FAILED: _on_release_failed,
    State.ORPHANED: _ignored,
}


def _resettle(family: Family, row: Interaction) -> None:
    """Put the row where it now belongs in its family."""
    if row.state in life.FINAL:
        if family.open is row:
            family.open, family.newest = None, row
    elif row.state in life.OPEN and not row.is_hold:
        family.open = row
        if family.newest is row:
            family.newest = None
