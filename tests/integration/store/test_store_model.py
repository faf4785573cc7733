"""Random jobs against random outcomes: whatever happens on the way, the table and the API's own book agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.factories import Store, dispatch, opened, release
from worker.domain.lifecycle import FINAL
from worker.domain.meeting import Ask
from worker.domain.outcome import Accepted, NotSent, Outcome, Refused, Throttled, Unknown
from worker.store import expiry
from worker.store.claim import Claim, Claimed, give_back
from worker.store.retry import let_go

BAD = "no such route"
GRACE = 1_000.0

OUTCOMES: dict[str, tuple[bool, type[Outcome] | None]] = {
    # whether the API processes the call, and what the worker hears of it; None: it dies
    "accepted": (True, Accepted),
    "refused": (False, Refused),
    "unknown, processed": (True, Unknown),
    "unknown, not processed": (False, Unknown),
    "not sent": (False, NotSent),
    "throttled": (False, Throttled),
    "died after sending": (True, None),
    "died before sending": (False, None),
}

JOBS = ["dispatch", "dispatch", "again", "release", "release", "release by name", "release first", "repeat"]
TIME = ["lease over", "late answer", "given back", "hours later"]
STEP = st.tuples(
    st.sampled_from([*JOBS, *OUTCOMES, *TIME]), st.integers(0, 2), st.integers(0, 7), st.booleans()
)


@dataclass
class Vcc:
    """The API as a model: it remembers requestids, and writes down what reached it first."""

    arrivals: list[tuple[str, str, str, str]] = field(default_factory=list)
    seen: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)

    def process(self, provider: str, rows: list[Claimed]) -> None:
        """Process each requestid once; one that comes again has to be the same request."""
        for row in rows:
            request = (row.action, row.externalid, row.requestid, provider)
            assert self.seen.setdefault(row.requestid, request) == request
            if request not in self.arrivals:
                self.arrivals.append(request)

    def place(self, requestid: str | None) -> int:
        """Tell when a requestid arrived; -1 where it never did."""
        return next((n for n, arrival in enumerate(self.arrivals) if arrival[2] == requestid), -1)


@dataclass
class Play:
    """One story: a store, the API, and the calls of which nothing was heard."""

    store: Store
    vcc: Vcc = field(default_factory=Vcc)
    asked: list[Ask] = field(default_factory=list)
    lost: list[tuple[Claim, bool]] = field(default_factory=list)
    number: int = 0

    def step(self, what: str, who: int, how: int, flag: bool) -> None:
        """Play one step."""
        self.number += 1
        if what in JOBS:
            self.ask(what, "abc"[who], how, flag)
        elif what in OUTCOMES:
            self.call(*OUTCOMES[what], limit=1 + how)
        else:
            self.let_time_pass(what)

    def ask(self, what: str, externalid: str, how: int, flag: bool) -> None:
        """Record a job."""
        earlier = [ask for ask in self.asked if ask.job.externalid == externalid]
        fields: dict[str, Any] = {
            "provider": ["", "P"][how % 2],
            "route": BAD if how == 7 else "R",
            "again": what == "again",
        }
        fields["lane"] = "live" if flag else "backlog"
        if what in ("dispatch", "again"):
            ask = dispatch(externalid, f"d{self.number}", **fields)
        elif what == "release":
            ask = release(externalid, f"r{self.number}")
        elif what == "release first":
            ask = release(externalid, f"r{self.number}", dispatch_requestid=f"d{self.number + 1 + how}")
        elif not earlier:
            return
        elif what == "repeat":
            ask = earlier[how % len(earlier)]
        else:
            named = earlier[how % len(earlier)].requestid
            ask = release(externalid, f"r{self.number}", dispatch_requestid=named)
        self.store.record(ask, grace=GRACE)
        self.asked.append(ask)

    def call(self, processed: bool, heard: type[Outcome] | None, limit: int = 500) -> bool:
        """Make one call."""
        claimed = self.store.claim_any(limit=limit)
        if claimed is None:
            return False
        if any(row.route == BAD and row.action == "dispatch" for row in claimed.rows):
            processed, heard = False, Refused if heard is Accepted else heard
        if processed:
            self.vcc.process(claimed.provider, list(claimed.rows))
        if heard is None:
            self.lost.append((claimed, processed))
        else:
            self.store.settle(claimed, heard)
        return True

    def let_time_pass(self, what: str) -> None:
        """Let leases end, an answer come late, an unsent call be given back, or holds expire."""
        if what == "lease over":
            self.store.make_due()
        elif what == "hours later":
            self.store.run("update interactions set due_at = now() where state = 'awaiting_dispatch'")
            expiry.expire_holds(self.store.engine)
        elif self.lost:
            claimed, processed = self.lost.pop(0)
            if processed or what == "late answer":
                self.store.settle(claimed, Accepted if processed else NotSent)
            else:
                with self.store.engine.begin() as conn:
                    give_back(conn, claimed.call, [row.id for row in claimed.rows])

    def end(self) -> None:
        """Let everything go well until nothing is left to do."""
        for _ in range(200):
            with self.store.engine.begin() as conn:
                let_go(conn, "R")
            self.store.make_due()
            if not self.call(True, Accepted):
                break
            self.let_time_pass("hours later")
        self.let_time_pass("hours later")

    def check(self) -> None:
        """Hold the table against the API's book."""
        rows = self.store.all("select * from interactions where due_at is null or due_at < 'infinity'")
        held = self.store.all("select route, state from interactions where due_at = 'infinity'")
        assert all(row.route == BAD for row in held)
        for row in rows:
            self.check_row(row)
        for name in "abc":
            self.check_externalid(name, [row for row in rows if row.externalid == name])
        self.check_jobs(rows)

    def check_row(self, row: Any) -> None:
        """Check what must be true of every lifecycle."""
        went, came = self.vcc.place(row.dispatch_requestid), self.vcc.place(row.release_requestid)
        assert row.state in FINAL or row.state == "dispatched", row
        assert row.call is None
        if row.state in ("dispatched", "ended"):
            assert went >= 0
        if row.state == "released":
            assert came >= 0
        if row.state in ("cancelled", "orphaned"):
            assert (went, came) == (-1, -1)
        if row.state in ("dispatched", "ended", "failed"):
            assert came == -1
        if row.state == "failed" and went >= 0:
            assert row.unsure
        if came >= 0:
            # it may never have gone: refused once while nobody knew of an earlier call, it is released to be sure
            assert went < came
            assert self.vcc.arrivals[came][3] == row.provider

    def check_externalid(self, name: str, rows: list[Any]) -> None:
        """Check that what the API holds is known, and what is thought dispatched is held."""
        mine = [(n, a) for n, a in enumerate(self.vcc.arrivals) if a[1] == name]
        last = mine[-1][1][0] if mine else "release"
        for row in rows:
            if row.state == "dispatched":
                assert last == "dispatch"
                assert mine[-1][1][2] == row.dispatch_requestid
        if last == "dispatch":
            assert {row.state for row in rows} & {"dispatched", "ended", "release_failed", "failed"}
        dispatched = [a for _, a in mine if a[0] == "dispatch"]
        assert len(dispatched) <= len({row.dispatch_requestid for row in rows})

    def check_jobs(self, rows: Sequence[Any]) -> None:
        """Check that no job was forgotten: its requestid stands in a row, in a receipt, or it was rejected."""
        known = {r for (r,) in self.store.all("select requestid from receipts")}
        known |= {r for row in rows for r in (row.dispatch_requestid, row.release_requestid)}
        known |= {r for (r,) in self.store.all("select dispatch_requestid from interactions")}
        known |= {r for (r,) in self.store.all("select release_requestid from interactions")}
        for ask in self.asked:
            if ask.requestid not in known:
                assert self.store.verdicts(ask) == ["rejected"]


@pytest.fixture
def stage(database_url: str) -> Iterator[Store]:
    """Give one database for all the stories."""
    with opened(database_url) as engine:
        yield Store(engine)


def clean(store: Store) -> None:
    """Forget everything."""
    store.run(
        "truncate interactions, invocations, events, receipts, rejections, routes, providers restart identity"
    )
    store.run("update gate set epoch = 0, failures = 0, closed_until = null, reason = null, rate = null")


@given(st.lists(STEP, max_size=40))
@hypothesis_settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_table_and_book_agree(stage: Store, story: list[tuple[str, int, int, bool]]) -> None:
    """Nothing is lost, nothing happens twice, a release follows its dispatch, and all ends in a final state."""
    clean(stage)
    play = Play(stage)
    for step in story:
        play.step(*step)
    play.end()
    play.check()
