"""Claiming: in which order, how many, how large, by whom, at what cost."""

from collections import Counter
from typing import Any

import pytest

from tests.factories import GIVE_UP, LEASE, Store, dispatch, release, together
from worker.domain.outcome import Refused
from worker.store.claim import CLAIM, RANKS, claim, give_back, oldest_due
from worker.store.gate import Passage

SEED = """insert into interactions (externalid, state, route, lane, provider, bytes, dispatch_requestid,
        release_requestid, release_requested_at, due_at, first_sent_at, unsure, attempts, cap)
    select %(name)s || n, %(state)s::interaction_state, %(route)s, %(lane)s, %(provider)s, %(bytes)s,
        %(name)s || 'd' || n, case %(state)s when 'releasing' then %(name)s || 'r' || n end,
        case %(state)s when 'releasing' then now() end,
        now() + make_interval(secs => %(due)s + case when %(spread)s then n * 0.001 else 0 end),
        now() - make_interval(secs => %(sent)s::float8), '{}', %(attempts)s, %(cap)s
    from generate_series(1, %(many)s) n"""


def seed(store: Store, name: str, many: int = 1, **given: Any) -> None:
    """Put rows into the table that nobody recorded: a second due, a millisecond apart."""
    values = {
        "state": "pending",
        "lane": "live",
        "route": "R",
        "provider": "",
        "bytes": 100,
        "due": -1_000.0,
        "spread": True,
        "sent": None,
        "attempts": 0,
        "cap": None,
    }
    store.run(SEED, **{**values, **given, "name": name, "many": many})


def names(claimed: Any) -> list[str]:
    """Tell which rows a claim has, in its order."""
    return [row.externalid for row in claimed.rows]


def test_nothing_due(store: Store) -> None:
    """Where nothing is due nothing is claimed, and no call is on record."""
    seed(store, "later", due=60.0)
    assert store.claim_any() is None
    assert store.one("select count(*) from invocations") == 0


def test_claim_is_on_record_before_anything_is_sent(store: Store) -> None:
    """A claim leaves its call, its fence, its lease and its attempt behind."""
    seed(store, "a")
    seed(store, "r", state="releasing")
    claimed = store.claim(lease=50.0)
    call = store.all("select * from invocations")[0]
    assert (call.id, call.outcome, call.probe) == (claimed.call, None, False)
    assert call.ids == [row.id for row in claimed.rows]
    assert call.releases == [claimed.rows[0].id]
    row = store.row("a1")
    assert (row.call, row.unsure, row.attempts, row.state) == (call.id, [call.id], 1, "pending")
    assert 49 < (row.due_at - row.updated_at).total_seconds() < 51
    assert row.first_sent_at is not None
    assert not claimed.full


def test_what_goes_on_the_wire(store: Store) -> None:
    """A claimed row has the requestid of its present action."""
    store.record(dispatch("a", "d"))
    store.deliver()
    store.record(release("a", "r"), dispatch("b", "d2", extra={"x": 1}))
    claimed = store.claim()
    assert [(r.action, r.externalid, r.requestid) for r in claimed.rows] == [
        ("release", "a", "r"),
        ("dispatch", "b", "d2"),
    ]
    assert (claimed.rows[1].route, claimed.rows[1].request["extra"]) == ("R", {"x": 1})


def test_releases_then_live_then_backlog(store: Store) -> None:
    """However long each has been due, releases go first, then live ones, then the backlog."""
    seed(store, "b", lane="backlog", due=-3_000)
    seed(store, "l", due=-2_000)
    seed(store, "r", state="releasing", due=-1_000)
    assert names(store.claim()) == ["r1", "l1", "b1"]


def test_every_tenth_turn_takes_the_backlog_first(store: Store) -> None:
    """In every tenth turn the backlog goes first, then releases, then live ones."""
    seed(store, "b", 2, lane="backlog")
    seed(store, "l")
    seed(store, "r", state="releasing")
    assert names(store.claim(turn=20)) == ["b1", "b2", "r1", "l1"]


def test_oldest_first_in_its_lane(store: Store) -> None:
    """Within a lane what has been due longest goes first."""
    seed(store, "a", due=-10)
    seed(store, "b", due=-20)
    seed(store, "c", due=-30)
    assert names(store.claim(limit=2)) == ["c1", "b1"]


def test_one_claim_has_one_provider(store: Store) -> None:
    """An Invocation serves one provider: that of the most urgent row."""
    seed(store, "n", due=-10)
    seed(store, "p", due=-20, provider="P")
    seed(store, "q", state="releasing", due=-5, provider="Q")
    claims = [store.claim() for _ in range(3)]
    assert [(c.provider, names(c)) for c in claims] == [("Q", ["q1"]), ("P", ["p1"]), ("", ["n1"])]


@pytest.mark.parametrize(("budget", "taken"), [(301, 2), (302, 3), (303, 3), (1, 1)])
def test_budget_is_exact(store: Store, budget: int, taken: int) -> None:
    """Rows go together whose bytes and the commas between them fit exactly; one always goes."""
    seed(store, "a", 4)
    claimed = store.claim(budget=budget)
    assert (len(claimed.rows), claimed.full) == (taken, True)


def test_limit_is_kept(store: Store) -> None:
    """No more rows than allowed are claimed, over all lanes together."""
    seed(store, "a", 3)
    seed(store, "b", 3, lane="backlog")
    seed(store, "r", 3, state="releasing")
    claimed = store.claim(limit=5)
    assert names(claimed) == ["r1", "r2", "r3", "a1", "a2"]
    assert claimed.full


def test_claim_that_took_all_is_not_full(store: Store) -> None:
    """Where everything due was taken no helper is woken."""
    seed(store, "a", 4)
    assert not store.claim(limit=5).full


def test_refused_rows_travel_in_their_group(store: Store) -> None:
    """Rows that were refused together, of one route, travel without others, and no more than their cap."""
    seed(store, "g", 5, due=-1_800.0, spread=False, cap=2)
    seed(store, "s", 2, due=-1_800.0, spread=False, cap=2, route="S")
    seed(store, "a", 3)
    store.run("update interactions set due_at = (select min(due_at) from interactions) where cap = 2")
    groups = [store.claim() for _ in range(4)]
    assert sorted(name for claimed in groups for name in names(claimed)) == [
        *(f"g{n}" for n in range(1, 6)),
        "s1",
        "s2",
    ]
    for claimed in groups:
        assert len(claimed.rows) <= 2
        assert len({row.route for row in claimed.rows}) == 1
        assert claimed.full
    assert names(store.claim()) == ["a1", "a2", "a3"]


def test_row_with_a_cap_does_not_join_a_larger_company(store: Store) -> None:
    """A row that may only travel in small company ends the claim that it would join."""
    seed(store, "a", 2, due=-20)
    seed(store, "c", due=-10, cap=2)
    seed(store, "b", 2, due=-5)
    assert names(store.claim()) == ["a1", "a2"]


def test_what_may_be_forgotten_is_not_sent_again(store: Store) -> None:
    """A row first sent longer ago than the giving-up time is left to the sweep."""
    seed(store, "old", sent=101.0)
    seed(store, "young", sent=99.0)
    assert names(store.claim(give_up_after=100.0)) == ["young1"]


def test_probe_takes_the_least_tried(store: Store) -> None:
    """A probe is one row, the one with the fewest attempts, whatever its lane."""
    seed(store, "r", state="releasing", attempts=4)
    seed(store, "l", 3, attempts=2)
    seed(store, "b", 3, lane="backlog", attempts=1)
    claimed = store.claim(probe=True)
    assert names(claimed) == ["b1"]
    assert store.one("select probe from invocations")


def test_probe_takes_a_fresh_row_past_a_group(store: Store) -> None:
    """A group that was refused is no obstacle to the probe."""
    seed(store, "g", 3, due=-1_800.0, spread=False, cap=1, attempts=3)
    seed(store, "l")
    assert names(store.claim(probe=True)) == ["l1"]


def test_forbidden_provider_is_left_alone(store: Store) -> None:
    """Rows of a provider that is closed wait; the others go."""
    seed(store, "p", provider="P", due=-3_000)
    seed(store, "q", provider="Q")
    store.run("insert into providers values ('P', now() + interval '1 minute', 1)")
    assert names(store.claim()) == ["q1"]
    assert store.claim_any() is None
    store.run("update providers set closed_until = now()")
    assert names(store.claim()) == ["p1"]


def test_no_row_twice(store: Store) -> None:
    """Four claimers at once take different rows, and all of them in the end."""
    seed(store, "a", 400, spread=False)
    seed(store, "b", 400, lane="backlog", spread=False)
    seed(store, "r", 200, state="releasing", provider="P")

    def work() -> list[int]:
        mine: list[int] = []
        while store.one("select exists (select from interactions where call is null)"):
            claimed = store.claim_any(limit=20)
            mine += [row.id for row in claimed.rows] if claimed else []
        return mine

    taken = Counter(i for one in together(*[work] * 4) for i in one)
    assert len(taken) == 1_000
    assert set(taken.values()) == {1}
    assert store.one("select max(attempts) from interactions") == 1


def test_claim_waits_for_nobody(store: Store) -> None:
    """A row that somebody has locked is left to them."""
    seed(store, "a", 3)
    with store.engine.connect() as other, store.engine.connect() as conn:
        other.exec_driver_sql("select from interactions where externalid = 'a2' for update")
        conn.exec_driver_sql("set local lock_timeout = '1s'")
        claimed = claim(conn, limit=5, budget=10_000, lease=LEASE, give_up_after=GIVE_UP, turn=1)
        assert claimed is not None
        assert names(claimed) == ["a1", "a3"]


def test_rows_of_a_dead_worker_come_back(store: Store) -> None:
    """Past its lease a claimed row is due again, and goes out under the same requestid."""
    store.record(dispatch())
    first = store.claim(lease=1e-6)
    second = store.claim()
    assert second.call > first.call
    assert second.rows == first.rows
    row = store.row()
    assert (row.call, row.unsure, row.attempts) == (second.call, [first.call, second.call], 2)


# --- giving back ----------------------------------------------------------------------------------


def test_given_back_as_if_never_claimed(store: Store) -> None:
    """What was not sent is as it was, and the call was none."""
    store.record(dispatch())
    claimed = store.claim()
    with store.engine.begin() as conn:
        give_back(conn, claimed.call, [row.id for row in claimed.rows])
    row = store.row()
    assert (row.call, row.unsure, row.attempts, row.first_sent_at, row.is_due) == (None, [], 0, None, True)
    assert store.one("select count(*) from invocations") == 0


def test_some_are_given_back(store: Store) -> None:
    """A call keeps the rows that were sent."""
    seed(store, "a", 3)
    claimed = store.claim()
    with store.engine.begin() as conn:
        give_back(conn, claimed.call, [claimed.rows[2].id])
    assert store.one("select ids from invocations") == [row.id for row in claimed.rows[:2]]
    assert store.row("a2").call == claimed.call
    assert store.row("a3").call is None


def test_given_back_too_late(store: Store) -> None:
    """A row that another call has taken meanwhile stays with it."""
    store.record(dispatch())
    first, second = store.claim(lease=1e-6), store.claim()
    with store.engine.begin() as conn:
        give_back(conn, first.call, [first.rows[0].id])
    row = store.row()
    assert (row.call, row.unsure, row.attempts, row.is_due) == (second.call, [second.call], 2, False)
    assert row.first_sent_at is not None


# --- how old, and at what cost --------------------------------------------------------------------


def test_age_of_the_most_overdue(store: Store) -> None:
    """The age is that of the row due longest; one that is put ahead counts from when that happened."""

    def age() -> float | None:
        with store.engine.connect() as conn:
            return oldest_due(conn)

    assert age() is None
    seed(store, "a", due=60.0)
    assert age() is None
    seed(store, "b", provider="P", lane="backlog", due=-120.0, spread=False)
    store.run("update interactions set updated_at = now() - interval '1 hour'")
    assert 119 < (age() or 0) < 125
    seed(store, "c", due=-3_600.0, spread=False)
    assert 119 < (age() or 0) < 125


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Flatten a plan."""
    return [plan, *(node for inner in plan.get("Plans", []) for node in nodes(inner))]


def explain(store: Store) -> tuple[list[dict[str, Any]], int, int]:
    """Claim and take it back; the plan's nodes, and the buffers touched to find the rows, and in all."""
    params = {
        "ranks": RANKS,
        "scan": 400,
        "limit": 400,
        "budget": 99_985,
        "lease": LEASE,
        "give_up": 86_400.0,
        "probe": False,
    }
    with store.engine.connect() as conn:
        found = conn.exec_driver_sql(f"explain (analyze, buffers, format json) {CLAIM}", params).scalar_one()
        conn.rollback()
    plan = nodes(found[0]["Plan"])
    pick = next(node for node in plan if node.get("Subplan Name") == "CTE pick")
    return plan, *(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in (pick, plan[0]))


def test_cost_of_a_claim_is_that_of_what_it_takes(store: Store) -> None:
    """Ended rows, rows not yet due and rows due later make a claim no dearer: each lane is read in its order."""
    seed(store, "b", 400, lane="backlog")
    seed(store, "l", 300)
    seed(store, "r", 300, state="releasing")
    store.run("analyze interactions")
    _, finding_alone, alone = explain(store)
    store.run(
        """insert into interactions (externalid, state, route, lane, dispatch_requestid, release_requestid,
            release_requested_at, released_at)
        select 'x' || n, 'released', 'R', 'backlog', 'xd' || n, 'xr' || n, now(), now()
        from generate_series(1, 200000) n"""
    )
    seed(store, "later", 50_000, lane="backlog", due=600.0)
    seed(store, "many", 20_000, due=-100.0)
    store.run("analyze interactions")
    plan, finding, whole = explain(store)
    scans = [node for node in plan if node.get("Relation Name") == "interactions" and node["Actual Loops"]]
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]
    lanes = [node["Actual Rows"] for node in scans if node.get("Index Name") == "interactions_due"]
    assert sorted(lanes)[-2:] == [100, 300]
    # on a page that autovacuum has marked all visible, a lock looks into the visibility map too: twice the buffers
    assert finding <= 2.5 * finding_alone
    # more rows make the indexes deeper, which every row that is written feels
    assert whole <= 2 * alone


def test_refusal_keeps_the_group_together(store: Store) -> None:
    """Rows that one call had refused are due at the very same moment, ahead of the rest."""
    seed(store, "a", 6)
    claimed = store.claim()
    store.settle(claimed, Refused, Passage(0, False, 0.0, 1, False))
    due = store.all(
        "select distinct due_at, cap, due_at < now() - interval '15 minutes' as ahead from interactions"
    )
    assert [(row.cap, row.ahead) for row in due] == [(3, True)]


def test_given_back_after_it_was_released(store: Store) -> None:
    """A row that was released while it was claimed, and never sent, is cancelled when it is given back."""
    store.record(dispatch())
    claimed = store.claim()
    assert store.verdicts(release()) == ["remembered"]
    with store.engine.begin() as conn:
        give_back(conn, claimed.call, [row.id for row in claimed.rows])
    assert store.states() == ["cancelled"]


def test_somebody_elses_lock_hides_nobody_else(store: Store) -> None:
    """A row that is locked for long leaves the other providers' rows to be claimed."""
    store.record(dispatch("locked", provider="A"))
    store.record(*(dispatch(f"e{i}", provider="B") for i in range(3)))
    with store.engine.begin() as conn:
        conn.exec_driver_sql("select from interactions where externalid = 'locked' for update")
        assert len(store.claim().rows) == 3
