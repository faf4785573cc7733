"""What calls came to: added up once, by minute and since ever, and read together with what is not added up yet."""

from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event

from tests.factories import Store, dispatch, settings, together
from worker.domain.outcome import Unknown
from worker.store import prune, tallies
from worker.store.expiry import lose_calls
from worker.upkeep.sweep import sweep

LEASE = 90.0
HOUR = 3_600.0
COUNTED = """select outcome, count(*), sum(cardinality(ids))::bigint from invocations
    where outcome is not null group by 1 order by 1"""


def calls(
    store: Store, count: int, outcome: str | None = "accepted", seconds: float | None = 0.2, ago: float = HOUR
) -> None:
    """Have made so many calls that carried two interactions each, so many seconds ago, one a second."""
    store.run(
        """insert into invocations (provider, ids, outcome, seconds, started_at)
        select '', '{1, 2}', %(outcome)s, %(seconds)s, now() - (%(ago)s - n) * interval '1 second'
        from generate_series(1, %(count)s) n""",
        count=count, outcome=outcome, seconds=seconds, ago=ago,
    )  # fmt: skip


def ask(store: Store, query: Any, *args: Any) -> Any:
    """Ask one of the queries."""
    with store.engine.connect() as conn:
        return query(conn, *args)


def totals(store: Store) -> list[tuple[str, int, int]]:
    """What is told since ever: outcome, calls, interactions."""
    found = ask(store, tallies.totals)
    return [(outcome, total.calls, total.interactions) for outcome, total in found.items()]


def kept(store: Store, table: str) -> list[Any]:
    """What is written down: outcome, calls, interactions."""
    return list(
        store.all(
            f"select outcome, sum(calls)::bigint, sum(interactions)::bigint from {table} group by 1 order by 1"
        )
    )


def varied(store: Store) -> None:
    """Have made calls with many outcomes over ten minutes."""
    for outcome, seconds in (("accepted", 0.2), ("unknown", 30.0), ("not_sent", 0.01), ("lost", None)):
        calls(store, 150, outcome, seconds)


def test_added_up_once(store: Store) -> None:
    """Minutes and totals are those of a plain count, however often they are added up."""
    varied(store)
    plain = store.all(COUNTED)
    assert tallies.roll(store.engine, LEASE) == 600
    assert tallies.roll(store.engine, LEASE) == 0
    assert kept(store, "tallies") == kept(store, "totals") == totals(store) == plain
    assert store.one("select count(distinct minute) from tallies") in (3, 4)
    calls(store, 70, ago=1_000)
    assert tallies.roll(store.engine, LEASE) == 70
    assert kept(store, "tallies") == kept(store, "totals") == totals(store) == store.all(COUNTED)


def test_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Very many calls are added up batch by batch, so many at a time, and the next time goes on."""
    varied(store)
    monkeypatch.setattr(tallies, "BATCHES", 3)
    monkeypatch.setattr(tallies, "BATCH", 7)
    assert tallies.roll(store.engine, LEASE) == 21
    assert totals(store) == [row for row in store.all(COUNTED) if row[0] != "lost"]
    while tallies.roll(store.engine, LEASE):
        pass
    assert kept(store, "tallies") == kept(store, "totals") == store.all(COUNTED)


def test_killed_in_between(store: Store) -> None:
    """Whatever ends a roll before its commit, the next one counts the same calls, once."""
    varied(store)
    with store.engine.connect() as conn:
        upto = conn.exec_driver_sql("select upto from tallied for update").scalar()
        conn.exec_driver_sql(tallies._ROLL, {"upto": upto, "lease": LEASE, "batch": 100})
        assert tallies.roll(store.engine, LEASE) == 0  # somebody else is at it
        conn.rollback()
    assert kept(store, "totals") == []
    assert tallies.roll(store.engine, LEASE) == 600
    assert kept(store, "tallies") == kept(store, "totals") == store.all(COUNTED)


def test_several_at_once(store: Store) -> None:
    """Sweeps that add up at the same time count each call once."""
    for _ in range(5):
        varied(store)
        together(*[lambda: tallies.roll(store.engine, LEASE)] * 4)
        tallies.roll(store.engine, LEASE)
        assert kept(store, "tallies") == kept(store, "totals") == store.all(COUNTED)


def test_waits_for_what_is_under_way(store: Store) -> None:
    """Nothing is added up past a call without an outcome, or one settled just now, and nothing is left out later."""
    calls(store, 3)
    calls(store, 1, None)
    calls(store, 3)
    assert tallies.roll(store.engine, LEASE) == 3
    assert lose_calls(store.engine, LEASE) == 1
    assert tallies.roll(store.engine, LEASE) == 4
    calls(store, 2, ago=30)
    calls(store, 2)
    assert tallies.roll(store.engine, LEASE) == 0
    assert totals(store) == [("accepted", 10, 20), ("lost", 1, 2)]
    store.run("update invocations set started_at = now() - interval '140 seconds' where id > 7")
    calls(store, 1, "lost", None, ago=LEASE + 30)
    calls(store, 2)
    assert tallies.roll(store.engine, LEASE) == 4  # the lost one may still be settled


def test_no_number_goes_down(store: Store) -> None:
    """A lost call is counted when it is added up; settled before, it never was lost, and afterwards stays so."""
    for name in ("a", "b"):
        store.record(dispatch(name))
    early, late = store.claim(limit=1), store.claim(limit=1)
    store.run("update invocations set started_at = now() - interval '2 minutes'")
    lose_calls(store.engine, LEASE)
    assert totals(store) == []
    store.settle(early)
    assert totals(store) == [("accepted", 1, 1)]
    store.run("update invocations set started_at = now() - interval '4 minutes'")
    assert tallies.roll(store.engine, LEASE) == 2
    store.settle(late)
    assert store.one("select count(*) from invocations where outcome = 'accepted'") == 2
    assert totals(store) == [("accepted", 1, 1), ("lost", 1, 1)]


def test_settled_late_while_it_is_added_up(store: Store) -> None:
    """A lost call that its worker is settling at this very moment is left for the next time, and never told as both."""
    store.record(dispatch())
    late = store.claim()
    store.run("update invocations set started_at = now() - interval '1 hour'")
    calls(store, 3)
    lose_calls(store.engine, LEASE)
    with store.engine.connect() as conn:
        conn.exec_driver_sql("select from invocations where outcome = 'lost' for update")
        assert tallies.roll(store.engine, LEASE) == 0
        conn.rollback()
    store.settle(late)
    assert totals(store) == [("accepted", 4, 7)]
    assert tallies.roll(store.engine, LEASE) == 4
    assert totals(store) == [("accepted", 4, 7)]


def test_the_sum_of_times_never_goes_down(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However calls are taken together, their times come to the same: a counter that fell would count as begun anew."""
    monkeypatch.setattr(tallies, "BATCH", 3)
    monkeypatch.setattr(tallies, "BATCHES", 1)
    store.run(
        """insert into invocations (provider, ids, outcome, seconds, started_at)
        select '', '{1}', 'accepted', 0.1 * n + 1 / 3.0, now() - interval '1 hour' from generate_series(1, 60) n"""
    )
    told = ask(store, tallies.totals)["accepted"].seconds
    while tallies.roll(store.engine, LEASE):
        assert ask(store, tallies.totals)["accepted"].seconds == told


def test_what_is_pruned_stays_counted(store: Store) -> None:
    """Calls are deleted after they were added up and not before; since ever they count on."""
    calls(store, 5, ago=30 * 86_400)
    for table, gone in (("invocations", 0), ("tallies", 0)):
        assert dict(prune.prune(store.engine, 86_400.0))[table] == gone
    tallies.roll(store.engine, LEASE)
    told = totals(store)
    pruned = dict(prune.prune(store.engine, 86_400.0))
    assert pruned["invocations"] == 5
    assert totals(store) == told == [("accepted", 5, 10)]


def test_buckets(store: Store) -> None:
    """A call is counted under the first bound that it did not exceed; a lost one has no time."""
    for seconds in (0.001, 0.05, 0.0501, 30.0, 30.1, 300.0):
        calls(store, 1, seconds=seconds)
    calls(store, 1, "lost", None)
    expected = [2, 1, 0, 0, 0, 0, 0, 0, 1, 2]
    assert ask(store, tallies.totals)["accepted"].buckets == expected
    tallies.roll(store.engine, LEASE)
    calls(store, 1, seconds=0.3)
    expected[3] += 1
    told = ask(store, tallies.totals)
    assert told["accepted"].buckets == expected
    assert told["accepted"].seconds == pytest.approx(360.5011)
    assert (told["lost"].seconds, sum(told["lost"].buckets)) == (0, 0)


def test_series(store: Store) -> None:
    """Each step of time has its calls, added up or not; steps without any are there too, those under way in none."""
    calls(store, 100, ago=1_800)
    tallies.roll(store.engine, LEASE)
    calls(store, 10, "unknown", 2.0, ago=60)
    calls(store, 10, "not_sent", 0.001, ago=60)
    calls(store, 10, None, None, ago=20)
    calls(store, 7, ago=2 * HOUR)
    bins = ask(store, tallies.series, HOUR, 60)
    assert len(bins) == 61
    assert {(later.at - earlier.at).seconds for earlier, later in pairwise(bins)} == {60}
    summed: dict[str, int] = {}
    for part in bins:
        for outcome, (count, interactions) in part.outcomes.items():
            assert interactions == 2 * count
            summed[outcome] = summed.get(outcome, 0) + count
    assert summed == {"accepted": 100, "unknown": 10, "not_sent": 10}
    assert sum(sum(part.buckets) for part in bins) == 110  # what was not sent tells nothing of the API
    assert sum(part.seconds for part in bins) == pytest.approx(100 * 0.2 + 10 * 2.0)
    assert bins[-1].at > bins[0].at
    wide = ask(store, tallies.series, 86_400, 600)
    assert (len(wide), sum(sum(part.buckets) for part in wide)) == (145, 117)


def test_percentile() -> None:
    """A percentile lies within its bucket; past the last bound it is that bound, and of nothing there is none."""
    assert tallies.percentile([0] * 10, 0.5) is None
    assert tallies.percentile([10] + [0] * 9, 0.5) == pytest.approx(0.025)
    assert tallies.percentile([5, 5] + [0] * 8, 0.9) == pytest.approx(0.09)
    assert tallies.percentile([0] * 9 + [3], 0.5) == 30.0
    assert tallies.percentile([0, 4] + [0] * 8, 1.0) == pytest.approx(0.1)


def test_sweep_adds_up(store: Store) -> None:
    """A sweep adds up what is ready, and where nothing is, Postgres is not asked for it."""
    store.record(dispatch())
    store.deliver(Unknown)
    said: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    sweep(store.engine, settings(), lambda: None)
    assert not [statement for statement in said if "tallied for update" in statement]
    store.run("update invocations set started_at = now() - interval '1 hour'")
    sweep(store.engine, settings(), lambda: None)
    assert totals(store) == [("unknown", 1, 1)]
    assert store.one("select upto from tallied") == 1
