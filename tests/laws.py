"""What must be true of the table at every moment, beside what a model of the API saw: one short law each.

The model is a few lines: the API processes each requestid once and writes down what reached it, and a call's rows
are *in doubt* until something certain is heard of it. The laws compare a picture of the table with that.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.factories import FINITE, Store
from worker.domain.lifecycle import FINAL
from worker.domain.meeting import Ask
from worker.store.claim import Claim
from worker.store.rows import OPEN_ROW

REACHED: dict[str, tuple[bool | None, bool | None]] = {
    # whether the lifecycle's dispatch has reached the API, and its release; None: perhaps
    "awaiting_dispatch": (False, False),
    "waiting": (False, False),
    "pending": (None, False),
    "dispatched": (True, False),
    "releasing": (None, None),
    "released": (None, True),
    "cancelled": (False, False),
    "ended": (True, False),
    "failed": (None, False),
    "release_failed": (None, None),
    "orphaned": (False, False),
}

IN_WORK = {"pending": "dispatch", "releasing": "release"}
IN_DOUBT = {**IN_WORK, "failed": "dispatch", "release_failed": "release"}
"""States in which something is sent, or was: and what."""


@dataclass(frozen=True)
class Arrival:
    """A request that the API processed, and the lifecycle that sent it."""

    row: int
    action: str
    externalid: str
    requestid: str
    provider: str


@dataclass
class Vcc:
    """The API as a model.

    Attributes:
        arrivals: what it processed, in order.
        doubts: the calls that are not certainly unprocessed, by lifecycle, action and requestid.
        told: the lifecycles of whose action a worker has heard that it was accepted.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    doubts: dict[tuple[int, str, str], set[int]] = field(default_factory=dict)
    told: set[tuple[int, str]] = field(default_factory=set)

    def claimed(self, claim: Claim) -> None:
        """A worker has claimed a call: from now on it may be processed."""
        for row in claim.rows:
            self.doubts.setdefault((row.id, row.action, row.requestid), set()).add(claim.call)

    def process(self, claim: Claim) -> None:
        """Process a call; a requestid that comes again is dropped, and has to be the same request."""
        for row in claim.rows:
            new = Arrival(row.id, row.action, row.externalid, row.requestid, claim.provider)
            same = [old for old in self.arrivals if old.requestid == row.requestid]
            assert same in ([], [new])
            self.arrivals += [] if same else [new]

    def accepted(self, claim: Claim) -> None:
        """A worker has heard that the call was processed."""
        self.told |= {(row.id, row.action) for row in claim.rows}

    def not_processed(self, claim: Claim) -> None:
        """A worker has heard, or knows, that the call was not processed."""
        for row in claim.rows:
            self.doubts[row.id, row.action, row.requestid].discard(claim.call)

    def place(self, row: int, action: str) -> int:
        """Tell when a lifecycle's action arrived; -1 where it never did."""
        return next((n for n, a in enumerate(self.arrivals) if (a.row, a.action) == (row, action)), -1)

    def holder(self, externalid: str) -> int | None:
        """Tell whose dispatch holds the externalid."""
        mine = [a for a in self.arrivals if a.externalid == externalid]
        return mine[-1].row if mine and mine[-1].action == "dispatch" else None


@dataclass
class Call:
    """A call of which nothing was heard yet.

    Attributes:
        claim: what it carries.
        processed: it has reached the API.
        over: its lease is over; what has not arrived by now never will.
    """

    claim: Claim
    processed: bool = False
    over: bool = False


@dataclass(frozen=True)
class Picture:
    """The table at one moment, and what the model knows.

    Attributes:
        rows: every lifecycle, oldest first.
        receipts: the requestids that left no mark on a row.
        held: the routes that wait for an operator.
        vcc: the API.
        out: the calls of which nothing was heard.
        asked: the jobs that were taken.
        forced: the externalids that an operator has released by force.
        before: the lifecycles' states one step ago.
    """

    rows: Sequence[Any]
    receipts: frozenset[str]
    held: frozenset[str]
    vcc: Vcc
    out: Sequence[Call]
    asked: Sequence[Ask]
    forced: frozenset[str]
    before: Mapping[int, str]


def look(
    store: Store, vcc: Vcc, out: Sequence[Call], asked: Sequence[Ask], before: Mapping[int, str]
) -> Picture:
    """Take a picture."""
    rows = read(
        store,
        f"""select {FINITE}, {OPEN_ROW} as open, (select array_agg(requestid) from receipts) as receipts,
            (select array_agg(route) from routes where held_at is not null) as held
        from interactions order by id""",
    )
    receipts = frozenset(rows[0].receipts or ()) if rows else frozenset()
    held = frozenset(rows[0].held or ()) if rows else frozenset()
    forced = frozenset(ask.job.externalid for ask in asked if ask.door == "force")
    return Picture(rows, receipts, held, vcc, out, asked, forced, before)


def read(store: Store, sql: str) -> Sequence[Any]:
    """Read rows without a transaction around it, which is a third of the way."""
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        return conn.exec_driver_sql(sql).all()


# --- the laws ------------------------------------------------------------------------------------


def one_is_open(picture: Picture) -> None:
    """An externalid has one open lifecycle at most, and one that waits at most, behind an open one."""
    opened = Counter(row.externalid for row in picture.rows if row.open)
    waiting = Counter(row.externalid for row in picture.rows if row.state == "waiting")
    assert all(number == 1 for number in [*opened.values(), *waiting.values()])
    assert waiting.keys() <= opened.keys()


def no_job_is_forgotten(picture: Picture) -> None:
    """The requestid of every job that was taken stands in a row or in a receipt."""
    known = {id_ for row in picture.rows for id_ in (row.dispatch_requestid, row.release_requestid)}
    assert {ask.requestid for ask in picture.asked} <= known | picture.receipts


def calls_are_out(picture: Picture) -> None:
    """A row is in flight with a call of which nothing was heard yet; while its lease lasts, with no other."""
    carried = {(call.claim.call, row.id) for call in picture.out for row in call.claim.rows}
    assert {(row.call, row.id) for row in picture.rows if row.call is not None} <= carried
    rows = {row.id: row for row in picture.rows}
    for call in picture.out:
        for sent in () if call.over else call.claim.rows:
            row = rows[sent.id]
            assert row.call == call.claim.call or IN_WORK.get(row.state) != sent.action, row


def doubts_are_known(picture: Picture) -> None:
    """``unsure`` is exactly the calls of the action that are not certainly unprocessed, and starts its clock."""
    for row in picture.rows:
        if action := IN_DOUBT.get(row.state):
            requestid = row.dispatch_requestid if action == "dispatch" else row.release_requestid
            assert set(row.unsure) == picture.vcc.doubts.get((row.id, action, requestid), set()), row
            assert row.unsure or row.first_sent_at is None, row


def accepted_is_a_fact(picture: Picture) -> None:
    """An action that a worker has heard was accepted is over."""
    for row in picture.rows:
        assert (row.id, IN_DOUBT.get(row.state)) not in picture.vcc.told, row


def states_are_true(picture: Picture) -> None:
    """A state means what it says about what has reached the API; a final one has nothing to do."""
    for row in picture.rows:
        places = [picture.vcc.place(row.id, action) >= 0 for action in ("dispatch", "release")]
        assert all(said in (None, was) for said, was in zip(REACHED[row.state], places, strict=True)), row
        assert row.state not in FINAL or (row.due_at is None and row.call is None and not row.is_held), row


def nothing_happens_twice(picture: Picture) -> None:
    """One requestid of a lifecycle's action is processed at most; a live interaction is not dispatched again.

    Unless the lifecycle knows that VCC may hold an earlier one: then its release is always sent.
    """
    arrivals = picture.vcc.arrivals
    assert len({(a.row, a.action) for a in arrivals}) == len(arrivals)
    rows = {row.id: row for row in picture.rows}
    for externalid in {a.externalid for a in arrivals}:
        mine = [a for a in arrivals if a.externalid == externalid]
        for earlier, later in pairwise(mine):
            if (earlier.action, later.action) == ("dispatch", "dispatch"):
                assert rows[later.row].may_hold, rows[later.row]


def what_is_held_is_known(picture: Picture) -> None:
    """What the API holds stands as dispatched, or something of it is still to be told; and the other way round."""
    for row in picture.rows:
        holder = picture.vcc.holder(row.externalid)
        if row.state == "dispatched":
            assert holder == row.id, row
        if row.state == "pending" and holder not in (None, row.id):
            assert row.may_hold, row


def releases_follow(picture: Picture) -> None:
    """A release comes after its dispatch, and with its provider."""
    for row in picture.rows:
        went, came = (picture.vcc.place(row.id, action) for action in ("dispatch", "release"))
        if came >= 0:
            assert went < came, row
            assert picture.vcc.arrivals[came].provider == row.provider, row
        if went >= 0:
            assert picture.vcc.arrivals[went].provider == row.provider, row


def releases_have_a_reason(picture: Picture) -> None:
    """A release is begun only where VCC holds the interaction, may hold it, or an operator insists."""
    for row in picture.rows:
        if row.state == "releasing" and picture.before.get(row.id) not in ("releasing", "release_failed"):
            arrived = picture.vcc.place(row.id, "dispatch") >= 0
            doubted = bool(picture.vcc.doubts.get((row.id, "dispatch", row.dispatch_requestid)))
            assert arrived or doubted or row.may_hold or row.externalid in picture.forced, row


def only_held_routes_wait(picture: Picture) -> None:
    """A row waits for an operator only while its route is held, and never with a release remembered."""
    for row in picture.rows:
        if row.is_held:
            assert row.route in picture.held, row
            assert row.release_requestid is None, row


LAWS: Sequence[Callable[[Picture], None]] = (
    one_is_open,
    no_job_is_forgotten,
    calls_are_out,
    doubts_are_known,
    accepted_is_a_fact,
    states_are_true,
    nothing_happens_twice,
    what_is_held_is_known,
    releases_follow,
    releases_have_a_reason,
    only_held_routes_wait,
)
