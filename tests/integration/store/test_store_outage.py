"""A long outage, its waiting skipped: what it costs the API and the rows."""

import pytest

from tests.factories import Store, dispatch
from worker.domain.outcome import NotSent, Outcome, Throttled, Unauthorised, Unknown

TEN_MINUTES = 600.0
PROBES = 40


@pytest.mark.parametrize("kind", [Unknown, NotSent, Throttled, Unauthorised])
def test_ten_minutes_cost_few_probes_and_no_row(store: Store, kind: type[Outcome]) -> None:
    """While the API is away it sees a probe now and then and no other call, and every row is sent afterwards."""
    store.record(*(dispatch(f"e{number}") for number in range(300)))
    passed, calls = 0.0, 0
    while passed < TEN_MINUTES:
        entered = store.passage()
        calls += 1
        assert entered.probe == (calls > 1)
        assert store.enter() is None or calls == 1  # beside a probe nobody
        claimed = store.claim(probe=entered.probe)
        store.settle(claimed, kind, entered)
        assert store.enter() is None
        closed = float(store.one("select extract(epoch from closed_until - clock_timestamp()) from gate"))
        passed += max(closed, 0.0)
        store.run("update gate set closed_until = now(), next_slot = null")
        store.make_due()
    assert calls <= PROBES
    entered = store.passage()
    claimed = store.claim(probe=True)
    assert len(claimed.rows) == 1
    store.settle(claimed, passage=entered)
    assert not store.passage().probe
    store.make_due()
    assert len(store.deliver().rows) == 299
    assert store.counts() == {"dispatched": 300}
