"""Anything may happen in any order: after each step the table and the API's own book agree.

Hypothesis plays jobs, calls, crashes, time and an operator against a real database, in stories of forty steps. The
laws of ``tests/laws.py`` are held against the table after each of them; at the end all goes well, and everything has
to come to its end. A call is processed before its lease is over, or never; all else is left to chance.

The suite plays the same stories each time. New ones, and more of them::

    MACHINE_STORIES=2000 pytest tests/integration/store/test_store_machine.py --hypothesis-seed=7
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.factories import FINITE, GIVE_UP, LEASE, Store, dispatch, opened, release, settings
from tests.laws import LAWS, Call, Picture, Vcc, look, read
from worker.delivery.deliver import BUDGET
from worker.domain.lifecycle import FINAL
from worker.domain.meeting import Ask, Verdict
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
from worker.store.claim import Claim, Terms, give_back
from worker.store.record import record_and_claim
from worker.store.retry import Which, let_go, retry
from worker.upkeep.sweep import sweep

STORIES = int(os.environ.get("MACHINE_STORIES", "0"))

BAD = "no such route"
GRACE = 1_000.0
LEASE_OVER, GRACE_OVER, CLOCK_OVER = 1.1 * LEASE, 2 * GRACE, 2 * GIVE_UP

EXTERNALIDS = st.sampled_from("aaabc")
PROVIDERS = st.sampled_from(["", "P"])
ROUTES = st.sampled_from(["R", "R", "R", BAD])
WHICH = st.integers(0, 7)
LIMITS = st.sampled_from([1, 1, 2, 500])
_CERTAIN = [Refused, Refused, Throttled, Unauthorised, Forbidden, Misdirected, NotSent]
OUTCOMES = st.sampled_from([Accepted, Accepted, Accepted, *_CERTAIN, Unknown, Unknown])
JOBS = ["dispatch", "dispatch", "again", "import", "import again", "release", "release", "force"]


class Lifecycles(RuleBasedStateMachine):
    """The worker's whole store, an API that is a model, and everybody who pulls at them."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.vcc = Vcc()
        self.calls: list[Call] = []
        self.heard: list[Claim] = []
        self.asked: list[Ask] = []
        self.promised: list[Ask] = []
        self.last: dict[str, tuple[Ask, Verdict]] = {}
        self.states: dict[int, str] = {}
        self.number = 0
        self.mended = False
        clean(store)

    # --- jobs ---

    @rule(kind=st.sampled_from(JOBS), externalid=EXTERNALIDS, provider=PROVIDERS, route=ROUTES)
    def job(self, kind: str, externalid: str, provider: str, route: str) -> None:
        """A job comes."""
        self.record(self.ask(kind, externalid, provider, route))

    @rule(
        jobs=st.lists(
            st.tuples(st.sampled_from(JOBS), EXTERNALIDS, PROVIDERS, ROUTES), min_size=1, max_size=3
        )
    )
    def jobs_straight_on(self, jobs: list[tuple[str, str, str, str]]) -> None:
        """A batch comes by a reader, and what can be sent at once is claimed by its record."""
        self.record(*(self.ask(*job) for job in jobs), terms=Terms(500, BUDGET, LEASE))

    @precondition(lambda self: self.asked)
    @rule(which=WHICH, externalid=EXTERNALIDS)
    def release_by_name(self, which: int, externalid: str) -> None:
        """A release names an earlier dispatch of its externalid; only where it is none is it rejected."""
        named = self.asked[-1 - which % len(self.asked)]
        ask = release(externalid, self.fresh("r"), dispatch_requestid=named.requestid)
        if (named.job.action, named.job.externalid) == ("dispatch", externalid):
            self.record(ask)
        else:
            self.changes_nothing(ask, Verdict.REJECTED)

    @rule(externalid=EXTERNALIDS, again=st.booleans(), provider=PROVIDERS)
    def release_before_its_dispatch(self, externalid: str, again: bool, provider: str) -> None:
        """A release names a dispatch that is still to come."""
        self.promised.append(dispatch(externalid, self.fresh("d"), again=again, provider=provider))
        self.record(release(externalid, self.fresh("r"), dispatch_requestid=self.promised[-1].requestid))

    @precondition(lambda self: self.promised)
    @rule(which=WHICH)
    def dispatch_after_its_release(self, which: int) -> None:
        """The dispatch comes that a release has named."""
        self.record(self.promised.pop(which % len(self.promised)))

    @precondition(lambda self: self.asked)
    @rule(which=WHICH, same=st.booleans())
    def requestid_again(self, which: int, same: bool) -> None:
        """A job is delivered once more, or others come under its requestid; that changes nothing."""
        ask = self.asked[-1 - which % len(self.asked)]
        if same:
            self.changes_nothing(ask, Verdict.REPEATED)
            return
        other = release if ask.job.action == "dispatch" else dispatch
        self.changes_nothing(other(ask.job.externalid, ask.requestid), Verdict.REJECTED)
        self.changes_nothing(dispatch("d", ask.requestid), Verdict.REJECTED)

    # --- calls ---

    @rule(limit=LIMITS, kind=OUTCOMES, processed=st.booleans())
    def call(self, limit: int, kind: type[Outcome], processed: bool) -> None:
        """A call is made and settled."""
        if call := self.claimed(limit=limit):
            if processed:
                self.process(call)
            self.settle(call, kind)

    @rule(limit=LIMITS, probe=st.booleans(), turn=st.sampled_from([1, 10]), processed=st.booleans())
    def claim(self, limit: int, probe: bool, turn: int, processed: bool) -> None:
        """A call is claimed, and perhaps made; what comes of it is seen later."""
        call = self.claimed(limit=limit, probe=probe, turn=turn)
        if call and processed:
            self.process(call)

    @rule(limit=LIMITS, processed=st.booleans())
    def crash(self, limit: int, processed: bool) -> None:
        """A worker dies, or is frozen, before the call or after it; its lease runs out."""
        self.claim(limit, False, 1, processed)
        self.time(LEASE_OVER)

    @precondition(lambda self: self.calls)
    @rule(which=WHICH, kind=OUTCOMES)
    def answer(self, which: int, kind: type[Outcome]) -> None:
        """A call is settled, however late."""
        self.settle(self.calls[which % len(self.calls)], kind)

    @rule(kind=OUTCOMES, processed=st.booleans(), second=st.sampled_from([None, Refused, Refused, Accepted]))
    def late_answer(self, kind: type[Outcome], processed: bool, second: type[Outcome] | None) -> None:
        """A call outlives its lease: its rows go out in a second one, and then its answer comes."""
        if call := self.claimed(limit=1):
            if processed:
                self.process(call)
            self.time(LEASE_OVER)
            # ahead of whatever else is due
            self.store.run(
                "update interactions set due_at = due_at - interval '1 day' where call is not null"
            )
            again = self.claimed(limit=1)
            if again and second:
                self.settle(again, second)
            self.settle(call, kind)

    @precondition(lambda self: self.heard)
    @rule(which=WHICH, kind=OUTCOMES)
    def answer_twice(self, which: int, kind: type[Outcome]) -> None:
        """A call is settled that has its outcome; that changes nothing."""
        before = self.table()
        self.store.settle(self.heard[-1 - which % len(self.heard)], kind)
        assert self.table() == before

    @precondition(lambda self: any(not call.processed for call in self.calls))
    @rule(which=WHICH, kept=st.sampled_from([0, 0, 1]))
    def not_made(self, which: int, kept: int) -> None:
        """A call is not made, or without some of its rows: they are given back, however late."""
        unsent = [call for call in self.calls if not call.processed]
        call = unsent[which % len(unsent)]
        rows = call.claim.rows
        with self.store.engine.begin() as conn:
            give_back(conn, call.claim.call, [row.id for row in rows[kept:]])
        self.vcc.not_processed(replace(call.claim, rows=rows[kept:]))
        call.claim = replace(call.claim, rows=rows[:kept])
        if not call.claim.rows:
            self.calls.remove(call)

    # --- time and the operator ---

    @rule(seconds=st.sampled_from([LEASE_OVER, LEASE_OVER, LEASE_OVER, GRACE_OVER, CLOCK_OVER]))
    def time(self, seconds: float) -> None:
        """Time passes: leases end, rows become due, the valve opens."""
        self.store.run(TIME, s=seconds)
        for call in self.calls:
            call.over = True

    @rule(assume_ended=st.booleans())
    def tick(self, assume_ended: bool) -> None:
        """The sweep does what time asks for."""
        sweep(self.store.engine, settings(assume_ended_after=GRACE if assume_ended else None), lambda: None)

    @rule(state=st.sampled_from(["failed", "release_failed"]))
    def retry(self, state: str) -> None:
        """An operator tries again what was given up."""
        retry(self.store.engine, Which(state))

    @rule(route=ROUTES)
    def resume(self, route: str) -> None:
        """An operator lets a route go."""
        with self.store.engine.begin() as conn:
            let_go(conn, route)

    # --- what holds ---

    @invariant()
    def laws(self) -> None:
        """Every law holds at every moment."""
        picture = self.picture()
        for law in LAWS:
            law(picture)
        self.states = {row.id: row.state for row in picture.rows}

    def teardown(self) -> None:
        """Let all go well: everything ends, and the last word about an externalid was heard."""
        if sys.exc_info()[0] is not None:
            return  # the story has ended early, and what it found is on its way
        self.go_well()
        self.mended = True  # the operator has put the route right
        for state in ("release_failed", "failed"):
            self.retry(state)
        self.go_well()
        for externalid, (ask, verdict) in self.last.items():
            self.last_word(externalid, ask, verdict)

    def go_well(self) -> None:
        """Let time pass and calls be accepted until nothing is left to do."""
        for _ in range(20):
            self.time(GRACE_OVER)
            self.tick(assume_ended=False)
            for route in ("R", BAD):
                self.resume(route)
            while call := self.claimed(limit=1):
                self.settle(call, Accepted)
            self.laws()
            if set(self.states.values()) <= {*FINAL, "dispatched"}:
                return
        raise AssertionError(f"still at work: {self.states}")

    def last_word(self, externalid: str, ask: Ask, verdict: Verdict) -> None:
        """What was asked for last is so: a release has released, a dispatch is dispatched."""
        holder = self.vcc.holder(externalid)
        named = ask.job.dispatch_requestid
        if ask.job.action == "release":
            mine = [row for row in self.picture().rows if row.dispatch_requestid == named]
            assert holder is None or (named and holder not in [row.id for row in mine]), (ask, mine)
        elif verdict in (Verdict.OPENED, Verdict.WAITS, Verdict.DUPLICATE) and ask.door == "job":
            assert holder is not None or self.is_released(ask), ask

    def is_released(self, ask: Ask) -> bool:
        """Whether a release has named the dispatch."""
        return any(other.job.dispatch_requestid == ask.requestid for other in self.asked)

    # --- steps ---

    def fresh(self, letter: str) -> str:
        """Make a requestid."""
        self.number += 1
        return f"{letter}{self.number}"

    def ask(self, kind: str, externalid: str, provider: str, route: str) -> Ask:
        """Make a job."""
        if kind == "release":
            return release(externalid, self.fresh("r"))
        if kind == "force":
            return release(externalid, self.fresh("r"), door="force", provider=provider)
        door, lane = ("import", "backlog") if "import" in kind else ("job", "live")
        fields: dict[str, Any] = {"provider": provider, "route": route, "lane": lane}
        return dispatch(externalid, self.fresh("d"), door=door, again="again" in kind, **fields)

    def record(self, *asks: Ask, terms: Terms | None = None) -> None:
        """Record jobs, none of which is to be rejected."""
        with self.store.engine.connect() as conn:
            met, claim = record_and_claim(conn, asks, GRACE, terms)
        for ask, came in zip(asks, met, strict=True):
            assert came.verdict not in (Verdict.REJECTED, Verdict.REPEATED), (ask, came)
            self.last[ask.job.externalid] = ask, came.verdict
        self.asked += asks
        if claim:
            self.takes(claim)

    def changes_nothing(self, ask: Ask, verdict: Verdict) -> None:
        """Record a job that is to change nothing."""
        before = self.table()
        assert self.store.verdicts(ask) == [verdict]
        assert self.table() == before

    def claimed(self, **given: Any) -> Call | None:
        """Claim a call, if anything is due."""
        claim = self.store.claim_any(**given)
        return self.takes(claim) if claim else None

    def takes(self, claim: Claim) -> Call:
        """Note a call that a worker has taken."""
        self.vcc.claimed(claim)
        self.calls.append(Call(claim))
        return self.calls[-1]

    def process(self, call: Call) -> None:
        """Let the API process a call, if it still can, and is ready to."""
        bad = any(row.action == "dispatch" and row.route == BAD for row in call.claim.rows)
        if not call.over and (self.mended or not bad):
            self.vcc.process(call.claim)
            call.processed = True

    def settle(self, call: Call, kind: type[Outcome]) -> None:
        """Settle a call with an outcome that can be true."""
        if kind is Accepted:
            self.process(call)
        if call.processed != (kind is Accepted) and kind is not Unknown:
            kind = Accepted if call.processed else NotSent if call.over else Refused
        self.store.settle(call.claim, kind)
        if kind is Accepted:
            self.vcc.accepted(call.claim)
        elif kind is not Unknown:
            self.vcc.not_processed(call.claim)
        self.calls.remove(call)
        self.heard.append(call.claim)

    def picture(self) -> Picture:
        """Look at the table."""
        return look(self.store, self.vcc, self.calls, self.asked, self.states)

    def table(self) -> Sequence[Any]:
        """Read what a job or an outcome might change."""
        return read(
            self.store,
            f"""select {FINITE}, (select count(*) from receipts), (select count(*) from routes)
            from interactions order by id""",
        )


TIME = """
with passed as (select make_interval(secs => %(s)s) as time),
a as (update interactions set due_at = due_at - time, first_sent_at = first_sent_at - time,
      dispatched_at = dispatched_at - time from passed),
b as (update invocations set started_at = started_at - time from passed),
c as (update providers set closed_until = closed_until - time from passed)
update gate set failures = 0, closed_until = null, reason = null, rate = null
"""


def clean(store: Store) -> None:
    """Forget everything."""
    store.run(
        "truncate interactions, invocations, events, receipts, rejections, routes, providers restart identity"
    )
    store.run("update gate set epoch = 0, failures = 0, closed_until = null, reason = null, rate = null")


@pytest.fixture
def stage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Give one database for all the stories: a route is held there after two refusals, and no clock counts."""
    monkeypatch.setattr("worker.store.settle.HOLD_AFTER", 2)
    monkeypatch.setattr("worker.store.settle.backoff", lambda attempt, chance: LEASE)
    with opened(database_url) as engine:
        yield Store(engine)


def test_laws_hold_after_every_step(stage: Store) -> None:
    """Nothing is lost, nothing happens twice, a release follows its dispatch, and everything comes to its end."""
    run_state_machine_as_test(
        lambda: Lifecycles(stage),
        settings=hypothesis_settings(
            max_examples=STORIES or 25,
            stateful_step_count=40,
            derandomize=not STORIES,
            database=None,
        ),
    )
