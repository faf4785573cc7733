"""Jobs, rows, outcomes and claims: valid by default, a test names only what it is about."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import Engine

from worker.domain.job import LIMIT, Job, envelope
from worker.domain.lifecycle import Interaction, State
from worker.domain.meeting import Ask, Met
from worker.domain.outcome import Accepted, Answer, Outcome
from worker.settings import Settings
from worker.store import gate
from worker.store.claim import Claim, claim
from worker.store.database import connect
from worker.store.gate import Passage
from worker.store.record import record
from worker.store.settle import Bounds, settle
from worker.store.tables import interactions

T = TypeVar("T")

GRACE = GIVE_UP = 86_400.0
LEASE = 90.0

# Python has no infinity among its times
FINITE = (
    ", ".join(column.name for column in interactions.c if column.name != "due_at")
    + ", due_at <= now() as is_due, due_at = 'infinity' as is_held, nullif(due_at, 'infinity') as due_at"
)

_numbers = count()


def dispatch(
    externalid: str = "e", requestid: str = "", *, door: str = "job", known: bool = True, **fields: Any
) -> Ask:
    """Make a dispatch with a requestid of its own."""
    job = Job(externalid=externalid, **{"route": "R", **fields})
    return Ask(job, requestid or f"d{next(_numbers)}", known, door)


def release(
    externalid: str = "e", requestid: str = "", *, door: str = "job", known: bool = True, **fields: Any
) -> Ask:
    """Make a release with a requestid of its own."""
    job = Job(externalid=externalid, action="release", **fields)
    return Ask(job, requestid or f"r{next(_numbers)}", known, door)


def row(state: State = State.PENDING, **fields: Any) -> Interaction:
    """Make a lifecycle of the externalid ``e`` in a state, as the store would have locked it."""
    made = {"route": "R", "dispatch_requestid": "D", "id": next(_numbers) + 1}
    if state in (State.AWAITING_DISPATCH, State.ORPHANED):
        made = {"id": made["id"], "release_requestid": "L"}
    if state in (State.RELEASING, State.RELEASED, State.RELEASE_FAILED):
        made["release_requestid"] = "L"
    return Interaction("e", state, **{**made, **fields})


def outcome(kind: type[Outcome] = Accepted, **answer: Any) -> Outcome:
    """Make the outcome of a call."""
    return kind(Answer(**answer))


def settings(**given: Any) -> Settings:
    """Make settings that are independent of the environment."""
    return Settings.model_construct(**{**Settings.model_construct().model_dump(), **given})


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """Give an engine, and close its connections at the end."""
    engine = connect(url)
    try:
        yield engine
    finally:
        rest()
        engine.dispose()


def rest() -> None:
    """Wait for threads that still ask the database for somebody who has gone: a page's."""
    for thread in threading.enumerate():
        if thread.name in ("census", "probe"):
            thread.join(60)


def together(*jobs: Callable[[], T]) -> list[T]:
    """Run the jobs in threads that start at the same moment; what one raises is raised here."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], T]) -> T:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


class Store:
    """A database, and the steps of a delivery without the API between them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def record(self, *asks: Ask, grace: float = GRACE) -> list[Met]:
        """Record jobs as one batch."""
        return record(self.engine, asks, grace=grace)

    def verdicts(self, *asks: Ask) -> list[str]:
        """Record jobs as one batch; what each came to."""
        return [met.verdict for met in self.record(*asks)]

    def claim(self, **given: Any) -> Claim:
        """Claim rows; there have to be some."""
        found = self.claim_any(**given)
        assert found is not None
        return found

    def claim_any(self, **given: Any) -> Claim | None:
        """Claim rows if there are any."""
        wanted = {
            "limit": 500,
            "budget": LIMIT - envelope(""),
            "lease": LEASE,
            "give_up_after": GIVE_UP,
            "turn": 1,
            **given,
        }
        with self.engine.begin() as conn:
            return claim(conn, **wanted)

    def enter(self, lease: float = LEASE, limit: float | None = None) -> Passage | None:
        """Pass the valve if it lets anybody pass."""
        with self.engine.begin() as conn:
            return gate.enter(conn, lease=lease, limit=limit)

    def passage(self) -> Passage:
        """Pass the valve; it has to be open."""
        found = self.enter()
        assert found is not None
        return found

    def settle(
        self,
        claimed: Claim,
        kind: type[Outcome] = Accepted,
        passage: Passage | None = None,
        give_up_after: float = GIVE_UP,
        **answer: Any,
    ) -> None:
        """Settle a claim; as a call that entered a healthy valve, unless a passage is given."""
        passage = passage or Passage(self.epoch(), False, 0.0, 1, False)
        settle(self.engine, claimed, passage, outcome(kind, **answer), 100, Bounds(give_up_after))

    def deliver(self, kind: type[Outcome] = Accepted, **answer: Any) -> Claim:
        """Claim and settle once."""
        claimed = self.claim()
        self.settle(claimed, kind, **answer)
        return claimed

    def epoch(self) -> int:
        """Tell the valve's epoch."""
        return int(self.one("select epoch from gate"))

    def run(self, sql: str, **params: Any) -> None:
        """Change the database by hand: let time pass, or make what no door makes."""
        with self.engine.begin() as conn:
            conn.exec_driver_sql(sql, params)

    def all(self, sql: str, **params: Any) -> Sequence[Any]:
        """Read rows."""
        with self.engine.begin() as conn:
            return conn.exec_driver_sql(sql, params).all()

    def one(self, sql: str, **params: Any) -> Any:
        """Read one value."""
        with self.engine.begin() as conn:
            return conn.exec_driver_sql(sql, params).scalar()

    def row(self, externalid: str = "e") -> Any:
        """Read the newest lifecycle of an externalid."""
        found = self.all(
            f"select {FINITE} from interactions where externalid = %(e)s order by id desc limit 1",
            e=externalid,
        )
        assert found, f"no lifecycle of {externalid}"
        return found[0]

    def states(self, externalid: str = "e") -> list[str]:
        """Read the states of an externalid's lifecycles, oldest first."""
        found = self.all("select state from interactions where externalid = %(e)s order by id", e=externalid)
        return [row.state for row in found]

    def counts(self) -> dict[str, int]:
        """Count the interactions by state."""
        return dict(
            map(tuple, self.all("select state::text, count(*)::int from interactions group by state"))
        )

    def make_due(self) -> None:
        """Let so much time pass that every row which waits for its lease or its retry is due."""
        self.run("update interactions set due_at = now() where due_at > now() and due_at < 'infinity'")
