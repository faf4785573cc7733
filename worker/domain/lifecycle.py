"""The life of one interaction: its states, and every way from one to another.

Pure: an ``Interaction`` is what the store has locked; the functions here change it in memory, the store
writes what changed. Nothing else in the project decides about a state. ``EDGES`` is the whole graph; a
move that is not in it raises ``IllegalMoveError``, so that a mistake can't be written down.

Times are durations from now, in seconds: the clock is Postgres's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

from worker.domain.job import interaction, size

NOW = 0.0
"""A ``due`` of at once."""

NEVER = inf
"""A ``due`` that only an operator's word moves: the row's route is held."""

KEPT = -1e9
"""A ``due`` that stays as it stands in the table; no duration comes near it."""


class State(StrEnum):
    """Where an interaction is in its life; the same words in the same order as Postgres's enum."""

    AWAITING_DISPATCH = "awaiting_dispatch"  # the release came first; held for its dispatch
    WAITING = "waiting"  # a dispatch whose predecessor is still to be released
    PENDING = "pending"  # dispatch to be sent, or in flight
    DISPATCHED = "dispatched"  # the API accepted it
    RELEASING = "releasing"  # release to be sent, or in flight
    RELEASED = "released"  # final: the API accepted the release
    CANCELLED = "cancelled"  # final: released before anything could have reached the API
    ENDED = "ended"  # final without a release of ours: superseded, or assumed ended
    FAILED = "failed"  # dispatch refused or given up; final until an operator retries it
    RELEASE_FAILED = "release_failed"  # release refused or given up; likewise
    ORPHANED = "orphaned"  # final: a release whose dispatch never came


S = State

EDGES: Mapping[State | None, Mapping[State, str]] = {
    None: {
        S.PENDING: "dispatch recorded",
        S.WAITING: "dispatch while the predecessor is being released",
        S.AWAITING_DISPATCH: "release recorded first",
        S.RELEASING: "forced release of what was dispatched elsewhere",
    },
    S.AWAITING_DISPATCH: {
        S.CANCELLED: "its dispatch came",
        S.PENDING: "its dispatch came, and VCC may hold an earlier one",
        S.RELEASING: "released by force",
        S.ORPHANED: "its dispatch never came",
    },
    S.WAITING: {S.PENDING: "predecessor settled", S.CANCELLED: "released before it was sent"},
    S.PENDING: {
        S.DISPATCHED: "accepted",
        S.RELEASING: "settled with a release remembered",
        S.CANCELLED: "released before anything could have reached the API",
        S.FAILED: "refused or given up",
    },
    S.DISPATCHED: {S.RELEASING: "release recorded", S.ENDED: "superseded or assumed ended"},
    S.RELEASING: {S.RELEASED: "accepted", S.RELEASE_FAILED: "refused or given up"},
    S.FAILED: {
        S.PENDING: "retried by an operator",
        S.DISPATCHED: "accepted after all",
        S.ENDED: "accepted after all, but superseded",
        S.RELEASING: "release recorded, and VCC may hold it",
        S.CANCELLED: "release recorded, and VCC certainly does not hold it",
    },
    S.RELEASE_FAILED: {
        S.RELEASING: "retried, or released again",
        S.RELEASED: "accepted after all",
    },
    S.ENDED: {S.RELEASING: "release recorded after all"},
    S.RELEASED: {},
    S.CANCELLED: {},
    S.ORPHANED: {},
}

IN_WORK = frozenset((S.PENDING, S.RELEASING))
OPEN = frozenset((S.AWAITING_DISPATCH, S.PENDING, S.DISPATCHED, S.RELEASING))
FINAL = frozenset(State) - OPEN - {S.WAITING}


class IllegalMoveError(Exception):
    """A move that ``EDGES`` does not have: a mistake in this module, never in a job."""


@dataclass(slots=True)
class Interaction:
    """One row of ``interactions``, as the store locked it or is about to insert it.

    Attributes:
        due: seconds from now at which it is to be looked at; None: nothing to do; NEVER; KEPT.
        unsure: the calls of the current action that are not certainly unprocessed.
        sent_for: seconds since the current action's first send that may have been processed.
        marks: the timestamps that this change sets (``dispatched``, ``release_requested``, ``released``).
        clock_reset: this change begins the giving-up clock afresh.
    """

    externalid: str
    state: State
    lane: str = "live"
    route: str | None = None
    provider: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    dispatch_requestid: str | None = None
    release_requestid: str | None = None
    due: float | None = KEPT
    call: int | None = None
    unsure: list[int] = field(default_factory=list)
    may_hold: bool = False
    attempts: int = 0
    cap: int | None = None
    sent_for: float | None = None
    last_error: str | None = None
    reason: str | None = None
    id: int | None = None
    marks: set[str] = field(default_factory=set)
    clock_reset: bool = False
    changed: bool = False

    @property
    def action(self) -> str:
        """What is sent for the row in its present state."""
        return "release" if self.state is S.RELEASING else "dispatch"

    @property
    def requestid(self) -> str | None:
        """The requestid of the present action."""
        return self.release_requestid if self.state is S.RELEASING else self.dispatch_requestid

    @property
    def is_hold(self) -> bool:
        """It holds a release for one dispatch, by name: it stands beside the externalid's open lifecycle."""
        return self.state is S.AWAITING_DISPATCH and self.dispatch_requestid is not None

    @property
    def release_remembered(self) -> bool:
        """A release came while the dispatch was unsettled."""
        return self.state is S.PENDING and self.release_requestid is not None

    @property
    def maybe_held(self) -> bool:
        """VCC may hold the externalid, by this lifecycle or by an earlier one."""
        return bool(self.unsure) or self.may_hold

    @property
    def leftover(self) -> bool:
        """The lifecycle is over for us, but VCC may still hold the externalid."""
        return self.state in (S.ENDED, S.RELEASE_FAILED) or (self.state is S.FAILED and self.maybe_held)


def move(row: Interaction, state: State, reason: str | None = None) -> None:
    """Take the row along an edge of the graph, or raise IllegalMoveError."""
    if state not in EDGES[row.state]:
        raise IllegalMoveError(f"{row.state} has no way to {state}")
    row.state = state
    row.reason = reason
    row.due = None
    row.call = None
    row.changed = True


def to_pending(row: Interaction, due: float = NOW) -> None:
    """Start, or start again, the row's dispatch."""
    move(row, S.PENDING)
    _begin(row, due)


def to_releasing(row: Interaction) -> None:
    """Start, or start again, the row's release; what was unsure about the dispatch is over with it."""
    move(row, S.RELEASING)
    _begin(row, NOW)
    row.unsure = []
    row.bytes = size(interaction("release", row.release_requestid or "", row.externalid, None, {}))


def _begin(row: Interaction, due: float) -> None:
    row.due = due
    row.attempts = 0
    row.cap = None
    row.clock_reset = True
    row.last_error = None


def to_dispatched(row: Interaction) -> None:
    """The API took the dispatch: go on with a remembered release, if there is one."""
    row.marks.add("dispatched")
    if row.release_remembered:
        to_releasing(row)
        return
    move(row, S.DISPATCHED)
    _rest(row)


def to_released(row: Interaction) -> None:
    """The API took the release."""
    move(row, S.RELEASED)
    row.marks.add("released")
    _rest(row)


def _rest(row: Interaction) -> None:
    row.unsure = []
    row.cap = None
    row.clock_reset = True
    row.last_error = None


def request_release(row: Interaction, requestid: str) -> None:
    """Note which requestid the row's release has."""
    row.release_requestid = requestid
    row.marks.add("release_requested")
    row.changed = True


def give_up(row: Interaction, reason: str) -> None:
    """End the row's present action unaccepted: refused, or tried for too long.

    A remembered release is sent all the same where VCC may hold the interaction; where it certainly does
    not, the row is cancelled.
    """
    if row.state is S.RELEASING:
        move(row, S.RELEASE_FAILED, reason)
    elif not row.release_remembered:
        move(row, S.FAILED, reason)
    elif row.maybe_held:
        to_releasing(row)
    else:
        move(row, S.CANCELLED, reason)


def expire(row: Interaction) -> None:
    """The dispatch that a held release is for did not come within the grace period."""
    move(row, S.ORPHANED, "no dispatch came within the grace period")


def retry(row: Interaction, fresh: str) -> str | None:
    """Try a given-up row again, on an operator's word; the clock starts afresh.

    Where something is unsure the requestid stays, so that the API can drop a repeat. Where the API certainly
    refused, it may remember the refused one: a fresh one is taken.

    Returns:
        The requestid that was replaced, if it was.
    """
    replaced = None
    if row.state is S.FAILED:
        if not row.unsure:
            replaced, row.dispatch_requestid = row.dispatch_requestid, fresh
        to_pending(row)
    else:
        if not row.unsure:
            replaced, row.release_requestid = row.release_requestid, fresh
        unsure = row.unsure
        to_releasing(row)
        row.unsure = unsure
    return replaced
