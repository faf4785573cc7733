"""What an outcome means for each row of its call: pure.

``Accepted`` is a fact and counts by its requestid, however late, even for a row given up meanwhile. Any other
outcome counts only for the row that this call still has in flight; a certain one takes its own call, and only
that one, out of ``unsure``.
"""

from dataclasses import dataclass
from typing import assert_never

from worker.domain import lifecycle as life
from worker.domain.lifecycle import NEVER, NOW, Interaction, State
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

HOLD_AFTER = 20
"""Single requests refused in a row, none accepted between, after which a route is held."""

GROUP_HEAD_START = 3600.0
"""Seconds by which refused rows go ahead of the rest, divided by their cap: the smallest group first."""


MISFIT_WAIT = 10
"""How many times longer than others a row waits that alone is answered 403 or 404."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a settle knows besides the outcome.

    Attributes:
        call: the invocation's id.
        size: how many rows it carried.
        give_up_after: seconds after the first send that may have been processed.
        wait: seconds before these rows are tried again, where the outcome says so.
        others_succeed: other calls were accepted since these rows were first sent, or lately.
        held_routes: routes that wait for an operator.
        taken: externalids of failed rows that have a newer open lifecycle.
    """

    call: int
    size: int
    give_up_after: float
    wait: float = 1.0
    others_succeed: bool = False
    held_routes: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()


def settle_row(row: Interaction, sent: tuple[str, str], outcome: Outcome, about: Circumstances) -> None:
    """Change the row as the outcome of its call says.

    Args:
        row: as it is now, locked.
        sent: action and requestid that the call carried for it.
        outcome: the call's.
        about: what else is known.
    """
    if isinstance(outcome, Accepted):
        _accepted(row, *sent, about.taken)
        return
    if outcome.certain:
        _forget(row, about.call)
    if row.call == about.call:
        row.call = None
        row.changed = True
        _current(row, outcome, about)


def _forget(row: Interaction, call: int) -> None:
    """Take a call that certainly was not processed out of ``unsure``."""
    if call in row.unsure:
        row.unsure.remove(call)
        row.clock_reset = row.clock_reset or not row.unsure
        row.changed = True


def _accepted(row: Interaction, action: str, requestid: str, taken: frozenset[str]) -> None:
    if action == "dispatch" and requestid == row.dispatch_requestid:
        if row.state is State.FAILED and row.externalid in taken:
            life.move(row, State.ENDED, "accepted after all, but superseded")
        elif row.state in (State.PENDING, State.FAILED):
            life.to_dispatched(row)
    elif (
        action == "release"
        and requestid == row.release_requestid
        and row.state in (State.RELEASING, State.RELEASE_FAILED)
    ):
        life.to_released(row)


def _current(row: Interaction, outcome: Outcome, about: Circumstances) -> None:
    """Settle the row that the call still has in flight."""
    row.last_error = outcome.answer.error
    match outcome:
        case Refused():
            _refused(row, about)
        case Throttled() | Unauthorised():
            _again(row, NOW, counted=False)  # the valve says when; the rows are ready
        case Misdirected() | Forbidden():
            _misfit(row, about)
        case NotSent() | Unknown():
            _retry(row, outcome, about)
        case Accepted():  # pragma: no cover - settled before
            pass
        case _ as unreachable:
            assert_never(unreachable)


def _again(row: Interaction, due: float, *, counted: bool) -> None:
    row.attempts -= not counted
    if row.release_remembered and not row.maybe_held:
        life.move(row, State.CANCELLED, "released before anything could have reached the API")
    else:
        row.due = due


def _refused(row: Interaction, about: Circumstances) -> None:
    # a release that is remembered must not wait for the operator too
    if row.state is State.PENDING and row.route in about.held_routes and not row.release_remembered:
        _again(row, NEVER, counted=False)
    elif about.size > 1:
        _halve(row, about)
    else:
        life.give_up(row, "refused by the API")


def _misfit(row: Interaction, about: Circumstances) -> None:
    """Settle what is no fault of the row's, unless others are taken: then one row must not hold up all the rest.

    It never fails for it: nobody documents which status an odd row gets, and a wrong URL may have come just now.
    """
    if not about.others_succeed:
        _again(row, NOW, counted=False)
    elif about.size > 1:
        _halve(row, about)
    else:
        _again(row, MISFIT_WAIT * about.wait, counted=True)


def _halve(row: Interaction, about: Circumstances) -> None:
    row.cap = max(1, about.size // 2)
    _again(row, -GROUP_HEAD_START / row.cap, counted=False)


def _retry(row: Interaction, outcome: Outcome, about: Circumstances) -> None:
    if is_spent(row, about.give_up_after):
        life.give_up(row, "given up: no certain answer in time")
        return
    if isinstance(outcome, Unknown) and about.others_succeed and about.size > 1:
        row.cap = max(1, about.size // 2)
    _again(row, about.wait, counted=True)


def is_spent(row: Interaction, give_up_after: float) -> bool:
    """Whether the row was tried for too long: the API may have forgotten its requestid.

    A row that was never possibly sent is never spent, however long the pause.
    """
    return bool(row.unsure) and row.sent_for is not None and row.sent_for > give_up_after


def take_back(row: Interaction, call: int) -> None:
    """Take a row back from a call that was not made, as if it had never been claimed.

    What another call has taken meanwhile stays with it; only this call leaves its ``unsure``.
    """
    _forget(row, call)
    if row.call == call:
        row.call = None
        row.changed = True
        _again(row, NOW, counted=False)
