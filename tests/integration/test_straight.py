"""Straight on: what was just recorded goes out without a hop through a queue, or stays due like any other row."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from tests import logbook
from tests.factories import GRACE, Store, dispatch, opened, release, settings, together
from tests.waiting import until
from worker.delivery import deliver as delivering
from worker.delivery.deliver import Bench, deliver
from worker.delivery.straight import THREADS, Senders
from worker.domain.meeting import Ask
from worker.domain.outcome import Accepted, Refused
from worker.simulator.run import Background
from worker.store import record as recording
from worker.store.claim import Claim, give_back
from worker.store.record import record_and_claim
from worker.vonage.invoke import Api

WORD = "Confidential subject"
CLAIMED = "select count(*) from interactions where call is not null"


@dataclass
class Works:
    """A store, the API's stand-in, and senders between them, as one reader has them.

    Attributes:
        woken: one for each time that somebody else was asked for help.
    """

    store: Store
    simulator: Background
    bench: Bench
    senders: Senders
    stopped: threading.Event
    woken: list[None] = field(default_factory=list)

    def take_in(self, *asks: Ask) -> Any:
        """Record a batch as a reader does, and hand on what was claimed; returns that."""
        claim = self.record(*asks)
        self.senders.offer(claim)
        return claim

    def record(self, *asks: Ask) -> Any:
        """Record a batch; returns what was claimed in the same transaction."""
        with self.store.engine.connect() as conn:
            return record_and_claim(conn, asks, GRACE, self.senders.terms())[1]

    def calls(self) -> int:
        """Count the calls that the API got."""
        return int(self.simulator.book()["calls"])

    def comes_to(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition; there is no tick here, but helpers who were asked for do their part."""

        def come() -> bool:
            while self.woken:
                self.woken.pop()
                deliver(self.bench)
            return condition()

        until(come)

    def sent(self, number: int) -> bool:
        """Whether so many interactions are dispatched."""
        return self.store.counts() == {"dispatched": number}


@pytest.fixture
def make(database_url: str, simulator: Background) -> Iterator[Callable[..., Works]]:
    """Give a maker of works; what was made is closed at the end."""
    made: list[Works] = []

    def works(**changed: Any) -> Works:
        given = settings(
            **{
                "api_url": simulator.url,
                "auth_url": simulator.url,
                "client_id": "simulator",
                "client_secret": SecretStr("simulator"),
                "timeout": 5.0,
                **changed,
            }
        )
        woken: list[None] = []
        stopped = threading.Event()
        bench = Bench(store.engine, Api(given), given, lambda: woken.append(None))
        senders = Senders(bench, lambda: not stopped.is_set(), "test-send")
        made.append(Works(store, simulator, bench, senders, stopped, woken))
        return made[-1]

    with opened(database_url) as engine:
        store = Store(engine)
        yield works
        for one in made:
            one.senders.close(60)
            one.bench.api.close()
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("test-send")]


@pytest.fixture
def works(make: Callable[..., Works]) -> Works:
    """Give everything that sending straight on needs."""
    return make()


# --- claimed with the record ----------------------------------------------------------------------


def test_claimed_in_the_recording_transaction(works: Works) -> None:
    """What is recorded is claimed by the same transaction, so one commit stands before the call, and settled."""
    claim = works.record(dispatch("a", "A"), dispatch("b", "B"))
    assert works.store.one(CLAIMED) == 2
    assert works.store.one("select count(distinct xmin::text) from interactions") == 1
    assert works.calls() == 0
    works.senders.offer(claim)
    until(lambda: works.sent(2))
    book = works.simulator.book()
    assert (book["accepted_calls"], book["interactions"]["dispatched"]) == (1, 2)
    [call] = works.store.all("select * from invocations")
    assert (call.outcome, call.status, call.releases) == ("accepted", 200, [])
    for externalid in "ab":
        row = works.store.row(externalid)
        assert (row.attempts, row.call, row.unsure, row.due_at) == (1, None, [], None)
    assert works.woken == []


def test_body_is_that_of_any_delivery(works: Works) -> None:
    """What goes straight on has the body that it would have had in its turn."""
    linked = [{"type": "name", "value": "V"}]
    works.take_in(dispatch("e", "D", provider="P", linkeddata=linked, extra={"x": 1}))
    until(lambda: works.sent(1))
    assert works.simulator.last()["body"] == {
        "provider": "P",
        "requests": [
            {
                "action": "dispatch",
                "requestid": "D",
                "externalid": "e",
                "route": "R",
                "linkeddata": linked,
                "routingdata": {"interactiontype": "nonlive"},
                "x": 1,
            }
        ],
    }
    works.take_in(release("e", "L"))
    until(lambda: works.store.row("e").state == "released")
    assert works.simulator.last()["body"] == {
        "provider": "P",
        "requests": [{"action": "release", "requestid": "L", "externalid": "e"}],
    }
    [_, call] = works.store.all("select * from invocations order by id")
    assert call.ids == call.releases != []


def test_a_release_of_what_was_waiting_for_its_retry(works: Works) -> None:
    """A batch that changes older rows sends them as they are now, beside its new ones."""
    works.take_in(dispatch("old"))
    until(lambda: works.sent(1))
    claim = works.take_in(release("old", "L"), dispatch("new", "N"), dispatch("gone"), release("gone"))
    assert {(row.externalid, row.action, row.requestid) for row in claim.rows} == {
        ("old", "release", "L"),
        ("new", "dispatch", "N"),
    }
    until(lambda: works.store.counts() == {"released": 1, "dispatched": 1, "cancelled": 1})


def test_several_jobs_about_one_externalid(works: Works) -> None:
    """Of several jobs about one externalid in a batch what is due in the end goes, and once."""
    works.take_in(dispatch(), release(), dispatch(), dispatch(), release(), dispatch("e", "last"))
    until(lambda: works.store.states() == ["cancelled", "cancelled", "dispatched"])
    book = works.simulator.book(full=True)
    assert [entry["requestid"] for entry in book["ledger"]["e"]] == ["last"]


@pytest.mark.parametrize("known", [True, False])
def test_rolled_back(works: Works, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Where the recording transaction fails after the claim nothing is claimed, and nothing sent."""
    if known:
        works.take_in(dispatch("e"))
        until(lambda: works.sent(1))
        works.simulator.new_book()
    calls = works.store.one("select count(*) from invocations")
    works.store.run(
        """create function fails() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create constraint trigger fails after insert on invocations deferrable initially deferred
        for each row execute function fails()"""
    )
    with pytest.raises(DBAPIError):
        works.record(release("e") if known else dispatch("e"), dispatch("f"))
    assert works.store.states("e") == ["dispatched"] * known
    assert works.store.states("f") == []
    assert works.store.one("select count(*) from invocations") == calls
    assert works.calls() == 0
    works.store.run("drop trigger fails on invocations")
    works.take_in(dispatch("f"))
    until(lambda: works.store.row("f").state == "dispatched")


# --- not straight on ------------------------------------------------------------------------------

NOT_FREE = {
    "paused": "update gate set paused_at = now()",
    "closed": "update gate set closed_until = now() + interval '1 hour', reason = 'throttled'",
    "ailing": "update gate set failures = 1, probe_until = now() + interval '1 hour'",
    "rate learned": "update gate set rate = 1000, slowed_at = now()",
    "provider closed": "insert into providers values ('', now() + interval '1 hour', 1, 'no')",
    "route held": "insert into routes (route, refused, held_at) values ('R', 20, now())",
}


@pytest.mark.parametrize("why", NOT_FREE)
def test_valve_that_asks_for_anything(works: Works, why: str) -> None:
    """Where the valve, the provider or the route asks for anything, nothing is claimed with the record."""
    works.store.run(NOT_FREE[why])
    assert works.record(dispatch()) is None
    row = works.store.row()
    assert (row.state, row.call, row.attempts) == ("pending", None, 0)
    assert works.store.one("select count(*) from invocations") == 0


@pytest.mark.parametrize("why", ["paused", "ailing", "provider closed"])
def test_offered_to_a_closed_valve(works: Works, why: str) -> None:
    """What is offered while nothing may be sent stays as it is."""
    works.store.run(NOT_FREE[why])
    works.take_in(dispatch())
    works.senders.close(60)
    assert (works.calls(), works.store.one(CLAIMED), works.store.row().attempts) == (0, 0, 0)


def test_rate_that_is_set(make: Callable[..., Works]) -> None:
    """Under a rate nothing goes ahead of its turn, and all of it goes in its turn."""
    works = make(rate=100.0)
    assert works.take_in(dispatch()) is None
    works.comes_to(lambda: works.sent(1))
    assert works.store.one("select next_slot is not null from gate")


def test_rate_that_was_learned_long_ago(works: Works) -> None:
    """A rate that is forgotten binds nobody."""
    works.store.run("update gate set rate = 1, slowed_at = now() - interval '11 minutes'")
    assert works.take_in(dispatch()) is not None
    until(lambda: works.sent(1))


def test_more_than_one_call_takes(make: Callable[..., Works]) -> None:
    """What does not fit into one call is not claimed with the record, and goes at once all the same."""
    works = make(max_requests=5)
    assert works.take_in(*[dispatch(f"e{n}") for n in range(12)]) is None
    works.comes_to(lambda: works.sent(12))
    assert works.simulator.book()["largest_requests"] == 5


def test_more_bytes_than_one_call_takes(works: Works) -> None:
    """What has too many bytes for one call is not claimed with the record, and goes at once all the same."""
    assert works.take_in(*[dispatch(f"e{n}", extra={"x": "x" * 60_000}) for n in range(3)]) is None
    works.comes_to(lambda: works.sent(3))


def test_more_with_its_provider_than_one_call_takes(works: Works) -> None:
    """Rows for which the provider's name leaves no room go with the next call, and soon."""
    asks = [dispatch(f"e{n}", provider="P" * 200, extra={"x": "x" * 49_880}) for n in range(2)]
    works.take_in(*asks)
    works.comes_to(lambda: works.sent(2))


def test_jobs_of_two_providers(works: Works) -> None:
    """A batch of two providers goes as two calls, the second as soon as the first."""
    works.take_in(dispatch("p", provider="P"), dispatch("q", provider="Q"), dispatch("n"))
    works.comes_to(lambda: works.sent(3))


def test_what_is_more_urgent_goes_first(make: Callable[..., Works]) -> None:
    """Backlog that comes in while live rows are due does not overtake them."""
    works = make(max_requests=1)
    works.store.record(dispatch("live"))
    assert works.take_in(dispatch("backlog", lane="backlog")) is None
    works.comes_to(lambda: works.sent(2))
    assert [c["body"]["requests"][0]["externalid"] for c in works.simulator.calls()] == ["live", "backlog"]


def test_what_is_less_urgent_waits(make: Callable[..., Works]) -> None:
    """A live dispatch goes straight on past a backlog that is due."""
    works = make(max_requests=10)
    works.store.record(*[dispatch(f"b{n}", lane="backlog") for n in range(30)])
    claim = works.take_in(dispatch("live"))
    assert [row.externalid for row in claim.rows] == ["live"]
    until(lambda: works.store.row("live").state == "dispatched")


def test_told_to_stop(works: Works) -> None:
    """A worker that is told to stop claims nothing more, and leaves what it recorded to others."""
    works.stopped.set()
    assert works.take_in(dispatch()) is None
    until(lambda: works.woken)
    assert (works.calls(), works.store.one(CLAIMED)) == (0, 0)


# --- what comes after the call --------------------------------------------------------------------


def test_release_while_its_dispatch_is_under_way(works: Works) -> None:
    """A release that comes while its dispatch is being sent goes as soon as that is answered."""
    with held(works) as there:
        works.take_in(dispatch("e"))
        until(lambda: there)
        works.take_in(release("e"), dispatch("e", "again"))
        assert works.store.row("e").state == "waiting"
    works.comes_to(lambda: works.store.states("e") == ["released", "dispatched"])


def test_dispatch_while_the_release_before_it_is_under_way(works: Works) -> None:
    """A dispatch that waits for a release goes as soon as that is answered."""
    works.take_in(dispatch("e"))
    until(lambda: works.sent(1))
    with held(works) as there:
        works.take_in(release("e"))
        until(lambda: there)
        works.take_in(dispatch("e"))
        assert works.store.states("e") == ["releasing", "waiting"]
    works.comes_to(lambda: works.store.states("e") == ["released", "dispatched"])


def test_bad_one_of_many(works: Works) -> None:
    """Of a batch one is refused: the others are sent within moments, that one fails."""
    works.simulator.faults(poison=["e7"])
    works.take_in(*[dispatch(f"e{n}") for n in range(20)])
    works.comes_to(lambda: works.store.counts() == {"dispatched": 19, "failed": 1})


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"throttle": {}}, "throttled"),
        ({"cut_after": {}}, "unreachable"),
    ],
)
def test_failing_api(works: Works, faults: dict[str, Any], reason: str) -> None:
    """A call that fails closes the valve and leaves its rows due; what comes then waits for the valve."""
    works.simulator.faults(**faults)
    works.take_in(dispatch("a"))
    until(lambda: not works.store.one("select failures = 0 from gate"))
    until(lambda: works.store.one(CLAIMED) == 0)
    assert works.store.one("select reason from gate") == reason
    assert works.take_in(dispatch("b")) is None
    assert works.store.counts() == {"pending": 2}
    works.simulator.clear_faults()
    works.store.run("update gate set closed_until = now(), rate = null, next_slot = null")
    works.store.make_due()
    works.take_in(dispatch("c"))
    works.comes_to(lambda: works.sent(3))
    assert works.simulator.book()["redispatched"] == 0


@pytest.mark.parametrize("paused", [True, False])
def test_held_up_between_the_record_and_the_call(
    make: Callable[..., Works], monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    """A claim that was held up on its way is not sent past a pause, nor when its lease is nearly over."""
    monkeypatch.setattr(delivering, "FRESH", 0.01)
    works = make(timeout=5.0 if paused else 0.1)
    claim = works.record(dispatch())
    if paused:
        works.store.run(NOT_FREE["paused"])
    end = time.monotonic() + 0.2
    until(lambda: time.monotonic() > end)
    works.senders.offer(claim)
    works.senders.close(60)
    assert (works.calls(), works.store.one(CLAIMED)) == (0, 0)


# --- busy, broken, closed -------------------------------------------------------------------------


@contextmanager
def held(works: Works) -> Iterator[list[bytes]]:
    """Hold every call up before it leaves; give those that are there."""
    go, there, invoke = threading.Event(), [], works.bench.api.invoke

    def hold(body: bytes) -> Any:
        there.append(body)
        assert go.wait(60)
        return invoke(body)

    works.bench.api.invoke = hold  # type: ignore[method-assign]
    try:
        yield there
    finally:
        go.set()


def test_hands_full(works: Works) -> None:
    """While all senders are at work nothing is claimed, and somebody else is asked to help."""
    with held(works) as there:
        for taken in range(THREADS):
            works.take_in(dispatch(f"busy{taken}"))
            until(lambda taken=taken: len(there) == taken + 1)  # type: ignore[misc]
        assert works.woken == []
        assert works.take_in(dispatch("e")) is None
        assert len(works.woken) == 1
        assert (works.store.row("e").call, works.store.row("e").is_due) == (None, True)


def test_goes_on_after_an_exception(works: Works, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a delivery raises, the threads go on; the log says so, without what the exception says."""
    caplog.set_level(logging.DEBUG)
    invoke, broken = works.bench.api.invoke, [True] * 6

    def fails(body: bytes) -> Any:
        if broken:
            broken.pop()
            raise ZeroDivisionError(WORD)
        return invoke(body)

    works.bench.api.invoke = fails  # type: ignore[method-assign]
    for n in range(6):
        works.take_in(dispatch(f"e{n}"))
        until(lambda n=n: len(broken) == 5 - n)  # type: ignore[misc]
        until(lambda: works.senders._free._value == THREADS)
    works.store.make_due()
    works.store.run("update interactions set due_at = now()")
    works.take_in(dispatch("last"))
    works.comes_to(lambda: works.sent(7))
    failed = logbook.lines(caplog, "delivery failed")
    assert [line["reason"] for line in failed] == ["ZeroDivisionError"] * 6
    assert WORD not in logbook.text(caplog)


def test_closed_after_an_offer(works: Works) -> None:
    """What was offered is sent before the threads end, and closing twice does nothing."""
    works.simulator.faults(delay={"by": 0.2})
    works.take_in(dispatch("a"))
    works.take_in(dispatch("b"))
    works.senders.close(60)
    assert works.sent(2)
    works.senders.close(1)


def test_close_waits_no_longer_than_it_is_told(works: Works) -> None:
    """A call that hangs holds up the end of a worker no longer than is said."""
    with held(works) as there:
        works.take_in(dispatch("a"))
        until(lambda: there)
        start = time.monotonic()
        works.senders.close(0.1)
        assert time.monotonic() - start < 30


def test_many_one_after_the_other(works: Works) -> None:
    """One job after the other, each goes at once, whichever sender is free, and each once."""
    for n in range(60):
        works.take_in(dispatch(f"e{n}"))
    works.senders.close(60)
    works.store.record()
    book = works.simulator.book()
    left = works.store.counts().get("pending", 0)
    assert book["interactions"]["dispatched"] == 60 - left
    assert book["redispatched"] == book["repeated_requestids"] == 0
    assert not left or works.woken


# --- the short cut --------------------------------------------------------------------------------

SEEN = """select externalid, state, lane, route, provider, request, bytes, dispatch_requestid, release_requestid,
    due_at is null, call is null, unsure, may_hold, attempts, cap, first_sent_at is null, last_error, reason,
    dispatched_at is null, release_requested_at is null, released_at is null
    from interactions where externalid like %(world)s order by externalid, id"""


def anything(dice: random.Random, turn: int) -> list[Callable[[str], Ask]]:
    """Make a batch of jobs about few externalids, under requestids some of which have been here before."""
    return [one_job(dice, turn, n) for n in range(dice.choice([1, 1, 1, 2, 3]))]


def one_job(dice: random.Random, turn: int, n: int) -> Callable[[str], Ask]:
    """Make a job that can be told in several worlds, each with externalids and requestids of its own."""
    externalid = dice.choice("abcdefghijklmnop")
    requestid = f"{turn}-{n}" if dice.random() < 0.7 else f"{dice.randrange(turn + 1)}-0"
    if dice.random() < 0.35:
        named = f"{dice.randrange(turn + 1)}-0" if dice.random() < 0.3 else None
        return lambda world: release(
            f"{world}-{externalid}",
            f"{world}-{requestid}",
            dispatch_requestid=named and f"{world}-{named}",
        )
    fields = {
        "lane": dice.choice(["live", "backlog"]),
        "route": dice.choice("RRRH"),
        "again": dice.random() < 0.4,
    }
    return lambda world: dispatch(f"{world}-{externalid}", f"{world}-{requestid}", **fields)


@pytest.mark.parametrize("seed", range(2))
def test_the_short_cut_changes_no_rule(works: Works, seed: int) -> None:
    """Whatever comes in whatever order: recorded and claimed at once, it comes to the same as one after the other."""
    dice = random.Random(seed)
    works.store.run("insert into routes (route, refused, held_at) values ('H', 20, now())")
    short = 0
    for turn in range(50):
        batch = anything(dice, turn)
        with works.store.engine.connect() as conn:
            met, claim = record_and_claim(conn, [ask("s") for ask in batch], GRACE, works.senders.terms())
        if claim is not None:
            short += 1
            with works.store.engine.begin() as conn:
                give_back(conn, claim.call, [row.id for row in claim.rows])
        settle_all(works.store, turn)
        expected = works.store.verdicts(*[ask("l") for ask in batch])
        settle_all(works.store, turn)
        assert [m.verdict for m in met] == expected
        assert lifecycles(works.store, "s") == lifecycles(works.store, "l")
    assert short > 5


def settle_all(store: Store, turn: int) -> None:
    """Deliver all that is due, row by row; some are refused, the same in each world."""
    while (claimed := store.claim_any(limit=1)) is not None:
        [row] = claimed.rows
        refused = crc32(f"{turn}{row.externalid[1:]}{row.action}".encode()) % 3 == 0
        store.settle(claimed, Refused if refused else Accepted)


def lifecycles(store: Store, world: str) -> list[Any]:
    """Read all lifecycles of one world, without its name."""
    found = store.all(SEEN, world=f"{world}-%")
    return [[v.removeprefix(f"{world}-") if isinstance(v, str) else v for v in row] for row in found]


KNOWN: dict[str, tuple[list[Ask], str]] = {
    "an open one": ([dispatch("e")], "duplicate"),
    "a release": ([release("e")], "cancelled"),
    "a release by name": ([release("e", dispatch_requestid="D")], "cancelled"),
    "another's dispatch": ([dispatch("other", "D")], "rejected"),
    "another's release": ([release("other", "D")], "rejected"),
    "another's duplicate": ([dispatch("other"), dispatch("other", "D")], "rejected"),
    "the same job": ([dispatch("e", "D")], "repeated"),
    "the same job, a duplicate then": ([dispatch("e"), dispatch("e", "D"), release("e")], "repeated"),
}


@pytest.mark.parametrize("what", KNOWN)
def test_the_short_cut_meets_what_is_known(works: Works, what: str) -> None:
    """Where anything is known of a job it is not dispatched as if nothing were."""
    before, verdict = KNOWN[what]
    works.store.record(*before)
    while (claimed := works.store.claim_any()) is not None:  # what is due would keep it from the short cut
        works.store.settle(claimed)
    rows = works.store.one("select count(*) from interactions")
    with works.store.engine.connect() as conn:
        [met], claim = record_and_claim(conn, [dispatch("e", "D")], GRACE, works.senders.terms())
    assert (met.verdict, claim) == (verdict, None)
    assert works.store.one("select count(*) from interactions") == rows


def test_the_short_cut_knows_what_vcc_may_hold(works: Works) -> None:
    """A dispatch after a release that failed goes straight on, and remembers what VCC may hold."""
    works.store.record(dispatch("e"))
    works.store.deliver()
    works.store.record(release("e"))
    works.store.deliver(Refused)
    assert works.take_in(dispatch("e")) is not None
    assert works.store.row("e").may_hold


def test_the_short_cut_is_taken(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatch of which nothing is known takes one statement."""
    monkeypatch.setattr(recording, "_rounds", None)
    assert works.take_in(dispatch()) is not None
    until(lambda: works.sent(1))


@pytest.mark.parametrize("known", [True, False])
def test_the_short_cut_leaves_the_connection_as_it_was(works: Works, known: bool) -> None:
    """After the short cut, taken or not, the same connection's transactions are whole again."""
    if known:
        works.store.record(dispatch("e", "D"))
    with works.store.engine.connect() as conn:
        record_and_claim(conn, [dispatch("e"), dispatch("f", "D")], GRACE, works.senders.terms())
        conn.exec_driver_sql("update gate set pause_reason = 'half of it'")
        conn.rollback()
    assert works.store.one("select pause_reason from gate") is None


def test_many_take_the_short_cut_at_once(works: Works) -> None:
    """Of jobs about the same externalids at the same moment, each is dispatched once, and every job counts."""
    claims: list[Claim] = []

    def take(part: int) -> list[str]:
        verdicts = []
        with works.store.engine.connect() as conn:
            for turn in range(25):
                asks = [dispatch(f"e{turn}", f"{part}-{turn}"), dispatch(f"own{part}-{turn}")]
                asks += [dispatch(f"f{turn}", f"same-{turn}")] * (turn % 2)
                met, claim = record_and_claim(conn, asks, GRACE, works.senders.terms())
                verdicts += [m.verdict for m in met]
                if claim is not None:
                    claims.append(claim)
        return verdicts

    found = together(*[lambda part=part: take(part) for part in range(4)])  # type: ignore[misc]
    counted = Counter(verdict for verdicts in found for verdict in verdicts)
    assert counted == {"opened": 25 + 100 + 12, "duplicate": 75, "repeated": 36}
    assert works.store.counts() == {"pending": 137}
    carried = [row.id for claim in claims for row in claim.rows]
    assert len(carried) == len(set(carried))
    assert works.store.one(CLAIMED) == len(carried)
    recorded = works.store.all("select id, ids from invocations order by id")
    assert [(row.id, sorted(row.ids)) for row in recorded] == sorted(
        (claim.call, sorted(row.id for row in claim.rows)) for claim in claims
    )
