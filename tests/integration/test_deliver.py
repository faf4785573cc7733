"""Delivery over real HTTP: from recorded rows to what the API saw."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import SecretStr

from tests import logbook
from tests.factories import Store, dispatch, opened, release, settings
from tests.waiting import until
from worker.delivery.deliver import Bench, deliver, deliver_once
from worker.domain.job import LIMIT
from worker.domain.meeting import Ask
from worker.settings import Settings
from worker.simulator.run import Background
from worker.store import gate, queries
from worker.store.retry import let_go
from worker.upkeep.sweep import sweep
from worker.vonage.invoke import Api
from worker.vonage.payload import encode, interaction

PAUSE_ON_CLAIM = """
    create function pause() returns trigger language plpgsql as
        $$ begin update gate set paused_at = now(); return new; end $$;
    create trigger pause after insert on invocations for each row execute function pause()
"""


@dataclass
class Works:
    """A store, the API's stand-in, and a bench between them."""

    store: Store
    simulator: Background
    bench: Bench
    woken: list[None] = field(default_factory=list)

    def using(self, **changed: Any) -> Bench:
        """Give a bench with other settings."""
        return replace(self.bench, settings=self.bench.settings.model_copy(update=changed))

    def deliver_all(self, bench: Bench | None = None) -> int:
        """Deliver until nothing is due, letting the time pass in which the valve is closed."""
        calls = 0
        for _ in range(200):
            calls += deliver(bench or self.bench)
            self.store.run("update gate set closed_until = now() where closed_until is not null")
            due = self.store.one(
                "select count(*) from interactions where state in ('pending', 'releasing') and due_at <= now()"
            )
            if not due:
                break
        return calls

    def dispatch(self, *externalids: str, **fields: Any) -> None:
        """Record dispatches."""
        self.store.record(*[dispatch(externalid, **fields) for externalid in externalids])


@pytest.fixture
def works(database_url: str, simulator: Background) -> Iterator[Works]:
    """Give everything that a delivery needs."""
    given = settings(
        api_url=simulator.url,
        auth_url=simulator.url,
        client_id="simulator",
        client_secret=SecretStr("simulator"),
        timeout=5.0,
    )
    with opened(database_url) as engine:
        woken: list[None] = []
        api = Api(given)
        bench = Bench(engine, api, given, lambda: woken.append(None))
        yield Works(Store(engine), simulator, bench, woken)
        api.close()


def test_seed_example(works: Works) -> None:
    """The guide's own example goes out as it stands there, and so does its release, under another requestid."""
    works.dispatch("sourceObjectName", route="Route Interaction NR", requestid="d")
    assert deliver(works.bench) == 1
    last = works.simulator.last()
    assert last["body"] == {
        "requests": [
            {
                "action": "dispatch",
                "requestid": "d",
                "externalid": "sourceObjectName",
                "route": "Route Interaction NR",
                "routingdata": {"interactiontype": "nonlive"},
            }
        ]
    }
    assert last["headers"]["accept"] == "application/vnd.newvoicemedia.v1+json"
    assert last["headers"]["content-type"] == "application/json"
    assert last["headers"]["authorization"] == "Bearer"
    works.store.record(release("sourceObjectName", "r"))
    assert deliver(works.bench) == 1
    assert works.simulator.last()["body"] == {
        "requests": [{"action": "release", "requestid": "r", "externalid": "sourceObjectName"}]
    }
    assert works.store.row("sourceObjectName").state == "released"


def test_nothing_due_makes_no_call(works: Works) -> None:
    """Where nothing is due nobody is called, not even for a token."""
    assert deliver(works.bench) == 0
    book = works.simulator.book()
    assert (book["calls"], book["tokens_issued"]) == (0, 0)


def test_as_few_calls_as_the_limits_allow(works: Works) -> None:
    """Rows of one provider travel together up to the count that is set; another provider's travel apart."""
    works.dispatch(*[f"n{n}" for n in range(7)])
    works.dispatch(*[f"p{n}" for n in range(3)], provider="P")
    assert deliver(works.using(max_requests=5)) == 3
    book = works.simulator.book()
    assert (book["accepted_calls"], book["largest_requests"]) == (3, 5)
    assert book["interactions"] == {"dispatched": 10, "released": 0}
    assert works.woken == [None]


def sized(externalid: str, size: int, **fields: Any) -> Ask:
    """Make a dispatch of so many bytes on the wire."""
    ask = dispatch(externalid, **fields)
    bare = len(encode("", [interaction("dispatch", ask.requestid, externalid, "R", ask.job.request())]))
    return dispatch(
        externalid, ask.requestid, extra={"x": "x" * (size - bare - len(b',"x":"') - 1)}, **fields
    )


@pytest.mark.parametrize(("spare", "calls", "largest"), [(0, 1, LIMIT), (-1, 2, None)])
def test_body_up_to_the_limit(works: Works, spare: int, calls: int, largest: int | None) -> None:
    """A body of exactly 100,000 bytes goes as one call, one byte more as two."""
    first = sized("a", 50_000)
    rest = LIMIT - 50_000 + len(b'{"requests":[]}') - 1 - spare
    works.store.record(first, sized("b", rest))
    assert deliver(works.bench) == calls
    book = works.simulator.book()
    assert (book["calls_by_status"], book["interactions"]["dispatched"]) == ({"200": calls}, 2)
    assert largest is None or book["largest_body"] == largest


def test_rows_that_do_not_fit_with_their_provider_go_next(works: Works) -> None:
    """Where the provider's name makes the body too large, the last row is given back and goes with the next call."""
    works.store.record(sized("a", 50_000, provider="P" * 200), sized("b", 49_980, provider="P" * 200))
    assert deliver(works.bench) == 2
    book = works.simulator.book()
    assert (book["accepted_calls"], book["interactions"]["dispatched"]) == (2, 2)
    assert book["largest_body"] < LIMIT
    assert [row.ids for row in works.store.all("select ids from invocations order by id")] == [[1], [2]]
    assert works.store.one("select max(attempts) from interactions") == 1


def test_release_carries_its_provider(works: Works) -> None:
    """A release travels with the provider of its dispatch."""
    works.dispatch("e", provider="P")
    deliver(works.bench)
    works.store.record(release("e"))
    deliver(works.bench)
    book = works.simulator.book()
    assert (book["released"], book["releases_without_provider"], book["unknown_releases"]) == (1, 0, 0)
    assert works.simulator.last()["body"]["provider"] == "P"


def test_one_poisonous_of_a_thousand(works: Works) -> None:
    """Of 1,000 interactions one is refused: 999 are accepted, that one fails with the API's message."""
    works.simulator.faults(poison=["e777"])
    works.dispatch(*[f"e{n}" for n in range(1_000)])
    calls = deliver(works.bench)
    assert works.store.counts() == {"dispatched": 999, "failed": 1}
    assert works.store.row("e777").last_error == "Interaction 'e777' is refused"
    book = works.simulator.book()
    assert (book["interactions"]["dispatched"], book["redispatched"], book["repeated_requestids"]) == (
        999,
        0,
        0,
    )
    assert calls <= 24


def test_one_that_makes_the_api_fail(works: Works) -> None:
    """One interaction that the API answers with 500 is alone in the end, all others are dispatched; it is given up."""
    works.simulator.faults(poison_500=["e7"])
    works.dispatch(*[f"e{n}" for n in range(20)])
    for turn in range(40):
        works.dispatch(f"later{turn}")
        works.store.make_due()
        works.deliver_all()
        if works.store.counts().get("pending") == 1:
            break
    assert (works.store.row("e7").state, works.store.counts()["pending"]) == ("pending", 1)
    works.store.run(
        "update interactions set first_sent_at = now() - interval '2 days' where state = 'pending'"
    )
    works.store.make_due()
    assert sweep(works.bench.engine, works.bench.settings, works.bench.wake)["given up"] == 1
    assert works.store.row("e7").last_error == "Unexpected error"
    assert works.simulator.book()["redispatched"] == 0


def test_refused_route_is_held(works: Works) -> None:
    """Of 3,000 jobs for a route that is refused at most 25 fail, among 3,000 good ones that are all accepted."""
    works.simulator.faults(refuse_routes=["X"])
    jobs = [dispatch(f"e{n}", route="RX"[n % 2], lane="backlog") for n in range(6_000)]
    works.store.record(*jobs)
    calls = works.deliver_all()
    counts = works.store.counts()
    assert counts["dispatched"] == 3_000
    assert 20 <= counts["failed"] <= 25
    held = "select count(*) from interactions where due_at = 'infinity'"
    assert works.store.one(held) == counts["pending"] == 3_000 - counts["failed"]
    assert calls <= 150
    with works.store.engine.begin() as conn:
        assert queries.stats(conn)["held_routes"] == {"X": "Route 'X' does not exist"}
        works.simulator.clear_faults()
        assert let_go(conn, "X") == counts["pending"]
    works.deliver_all()
    assert works.store.counts() == {"dispatched": 6_000 - counts["failed"], "failed": counts["failed"]}
    assert works.simulator.book()["redispatched"] == 0


OUTAGES = [
    ({"unauthorised": {"at": "invoke"}}, "unauthorised"),
    ({"unauthorised": {"at": "token"}}, "unauthorised"),
    ({"not_found": {}}, "misconfigured"),
    ({"redirect": {}}, "misconfigured"),
    ({"html200": {}}, "unreachable"),
    ({"html503": {}}, "unreachable"),
    ({"cut_before": {}}, "unreachable"),
    ({"throttle": {}}, "throttled"),
]


@pytest.mark.parametrize(("faults", "reason"), OUTAGES)
def test_outage_costs_no_row_anything(works: Works, faults: dict[str, Any], reason: str) -> None:
    """While all calls fail only probes go out and no row fails; mended, all is delivered, each once."""
    works.simulator.faults(**faults)
    works.dispatch(*[f"e{n}" for n in range(10)])
    for _ in range(4):
        deliver(works.bench)
        works.store.make_due()
        works.store.run("update gate set closed_until = now(), rate = null, next_slot = null")
    assert works.store.counts() == {"pending": 10}
    assert works.store.one("select max(cardinality(ids)) from invocations where probe") == 1
    assert works.store.one("select count(*) from invocations") <= 4
    with works.store.engine.connect() as conn:
        assert (gate.read(conn).open, gate.read(conn).reason) == (False, reason)
    works.simulator.clear_faults()
    works.store.make_due()
    works.deliver_all()
    assert works.store.counts() == {"dispatched": 10}
    book = works.simulator.book()
    assert (book["interactions"]["dispatched"], book["redispatched"]) == (10, 0)


def test_dead_api(works: Works) -> None:
    """An API that does not even listen is waited for."""
    works.dispatch("e")
    works.simulator.stop()
    deliver(works.bench)
    row = works.store.row("e")
    assert (row.state, row.unsure, row.first_sent_at) == ("pending", [], None)
    works.simulator.start()
    works.store.make_due()
    works.deliver_all()
    assert works.store.row("e").state == "dispatched"


def test_retry_after_is_kept(works: Works) -> None:
    """No call starts before the time that a 429 named has passed."""
    works.simulator.faults(throttle={"calls": 1, "retry_after": 1})
    works.dispatch("e")
    until(lambda: deliver(works.bench) or works.store.row("e").state == "dispatched")
    book = works.simulator.book()
    assert (book["calls_by_status"], book["calls_while_throttled"]) == ({"429": 1, "200": 1}, 0)


def test_forbidden_provider_stops_nobody_else(works: Works) -> None:
    """A provider that these credentials may not use waits; the others' rows are delivered."""
    works.simulator.faults(forbidden_providers=["P"])
    works.dispatch("p", provider="P")
    works.dispatch("n")
    works.deliver_all()
    assert (works.store.row("p").state, works.store.row("n").state) == ("pending", "dispatched")
    with works.store.engine.connect() as conn:
        assert queries.stats(conn)["held_providers"] == {"P": "Not authorised for this provider"}


def test_dead_worker(works: Works) -> None:
    """What a worker sent before it died goes again under the same requestids; the API dispatches it once."""
    works.dispatch("a", "b")
    claimed = works.store.claim(lease=1e-6)
    wires = [interaction(r.action, r.requestid, r.externalid, r.route, r.request) for r in claimed.rows]
    works.bench.api.invoke(encode("", wires))
    assert deliver(works.bench) == 1
    book = works.simulator.book()
    assert (book["repeated_requestids"], book["interactions"]["dispatched"], book["redispatched"]) == (
        2,
        2,
        0,
    )
    assert works.store.counts() == {"dispatched": 2}


def test_answer_that_was_cut(works: Works) -> None:
    """A call that was processed but whose answer was cut goes again, and counts once."""
    works.simulator.faults(cut_after={"calls": 1})
    works.dispatch("a")
    deliver(works.bench)
    assert works.store.row("a").unsure == [1]
    works.store.make_due()
    works.deliver_all()
    book = works.simulator.book()
    assert (book["repeated_requestids"], book["dispatched"], works.store.row("a").state) == (
        1,
        1,
        "dispatched",
    )


def test_release_while_its_dispatch_is_unsure(works: Works) -> None:
    """A release that comes while nobody knows whether its dispatch arrived goes after that is known."""
    works.simulator.faults(cut_after={"calls": 1})
    works.dispatch("a")
    deliver(works.bench)
    assert works.store.verdicts(release("a")) == ["remembered"]
    works.store.make_due()
    works.deliver_all()
    assert works.store.row("a").state == "released"
    ledger = works.simulator.book(full=True)["ledger"]["a"]
    assert [entry["action"] for entry in ledger] == ["dispatch", "release"]


def test_release_before_anything_was_sent(works: Works) -> None:
    """A dispatch that is released before it was sent costs no call."""
    works.dispatch("a")
    works.store.record(release("a"))
    assert deliver(works.bench) == 0
    assert works.simulator.book()["calls"] == 0


def test_pause_between_claim_and_call(works: Works) -> None:
    """A valve that is closed after the claim is seen before anything is sent; the rows are as they were."""
    works.store.run(PAUSE_ON_CLAIM)
    works.dispatch("a")
    assert deliver(works.bench) == 0
    row = works.store.row("a")
    assert (row.call, row.unsure, row.attempts, row.is_due) == (None, [], 0, True)
    assert works.simulator.book()["calls"] == 0


def test_pause_between_a_probe_and_its_call(works: Works) -> None:
    """A probe that was not sent makes way at once for the next one."""
    works.store.run("update gate set failures = 1, epoch = 1")
    works.store.run(PAUSE_ON_CLAIM)
    works.dispatch("a")
    assert deliver(works.bench) == 0
    works.store.run("drop trigger pause on invocations")
    with works.store.engine.begin() as conn:
        gate.resume(conn)
    assert deliver(works.bench) == 1
    assert works.store.row("a").state == "dispatched"


def test_half_the_lease_gone_before_the_call(works: Works) -> None:
    """A worker that was held up gives its rows back instead of sending them as their lease ends."""

    def held_up() -> None:
        end = time.monotonic() + 0.3
        until(lambda: time.monotonic() > end)

    works.dispatch("a", "b")
    slow = replace(works.using(timeout=0.15, max_requests=1), wake=held_up)
    assert not deliver_once(slow)
    assert works.simulator.book()["calls"] == 0
    assert works.store.row("a").attempts == 0
    assert works.store.one("select count(*) from interactions where call is not null") == 0


def test_probe_without_anything_due(works: Works) -> None:
    """A probe that finds nothing to send lets the next one go."""
    works.store.run("update gate set failures = 1, epoch = 1")
    assert deliver(works.bench) == 0
    works.dispatch("a")
    assert deliver(works.bench) == 1


def test_makes_way_when_told(works: Works) -> None:
    """A delivery that is told to stop makes no further call, and has somebody go on."""
    works.dispatch("a", "b", "c")
    left = [True, True, False]
    assert deliver(works.using(max_requests=1), go_on=lambda: left.pop(0)) == 2
    assert works.store.counts() == {"dispatched": 2, "pending": 1}
    assert len(works.woken) == 3


def test_rate(works: Works) -> None:
    """Under a rate of twenty calls a second three calls take a tenth of a second."""
    works.dispatch("a", "b", "c")
    since, start = works.store.one("select clock_timestamp()"), time.monotonic()
    assert deliver(works.using(max_requests=1, rate=20.0)) == 3
    assert time.monotonic() - start > 0.09
    last = works.store.one("select max(started_at) from invocations")
    assert (last - since).total_seconds() > 0.09


def test_live_before_backlog(works: Works) -> None:
    """A live dispatch goes with the next call, whatever backlog is due."""
    works.dispatch(*[f"b{n}" for n in range(40)], lane="backlog")
    one = works.using(max_requests=10)
    deliver_once(one)
    works.dispatch("live")
    deliver_once(one)
    assert works.simulator.last()["body"]["requests"][0]["externalid"] == "live"


def test_settings_of_the_lease() -> None:
    """A row belongs to its worker for three times the longest call."""
    assert Settings.model_construct(timeout=5.0).lease == 15.0


def test_log_holds_no_customers_words(works: Works, caplog: pytest.LogCaptureFixture) -> None:
    """A delivery logs ids, numbers and outcomes, never what an agent would see."""
    caplog.set_level(logging.DEBUG, "worker")
    works.simulator.faults(poison=["bad"])
    works.store.record(dispatch("bad", extra={"said": "hush", "by": "Jane"}), dispatch("ok"))
    deliver(works.bench)
    works.simulator.faults(unauthorised={})
    works.dispatch("later")
    deliver(works.bench)
    shown = logbook.text(caplog)
    first, *_, last = made = logbook.lines(caplog, "call made")
    assert (first["outcome"], first["status"], first["interactions"]) == ("refused", 400, 2)
    assert "externalid" not in first
    assert (last["outcome"], last["level"]) == ("unauthorised", "error")
    assert {line["level"] for line in made[:-1]} == {"info"}
    assert "Jane" not in shown
    assert "hush" not in shown
