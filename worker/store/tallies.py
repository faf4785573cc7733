"""What calls came to, minute by minute and since ever: added up once nothing of them is under way any more.

``tallies`` has the minutes, ``totals`` all of them together, ``tallied`` up to which call both have been added up.
Whoever reads adds what is not tallied yet, in the same statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Engine

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf"))
"""Upper bounds, in seconds, of what a call's time is counted under; the bound itself belongs to it."""

SETTLED_FOR = 130.0
"""Seconds after a call's start, and after a lost one's lease, until it is added up.

A transaction that records a call takes no longer, a statement and a pause of 60 s each: then it is broken off. So no
call is recorded with an id that was passed by.
"""

BATCH, BATCHES = 5_000, 20
"""Calls that are added up in one transaction; transactions at a time, so that the first time delays nobody."""

UNTALLIED = 20_000
"""Calls beyond those tallied that are read, so that a page takes no longer.

There are more after the migration, where nobody sweeps, and where some hundred calls a second are made while one that
was lost waits to be added up: then counters and charts stand still, and catch up afterwards.
"""

_BOUNDS = ", ".join(f"{-bound}" for bound in reversed(BUCKETS[:-1]))
_LAST = len(BUCKETS) - 1

# Turned round, since width_bucket counts a bound itself to what is above it.
# To the microsecond, since sums of what is rounded in binary differ by the order, and a counter would go back a little.
_MEASURED = f"""id, started_at, outcome, round(seconds::numeric, 6) as seconds, cardinality(ids) as carried,
    {_LAST} - width_bucket(-seconds, array[{_BOUNDS}]::float8[]) as bucket"""
_COUNTED = f"""count(*) as calls, sum(carried)::bigint as interactions,
    coalesce(sum(seconds), 0) as seconds,
    array[{", ".join(f"count(*) filter (where bucket = {n})" for n in range(len(BUCKETS)))}] as buckets"""


def _summed(source: str) -> str:
    buckets = ", ".join(f"sum(buckets[{n + 1}])::bigint" for n in range(len(BUCKETS)))
    return f"""sum(calls)::bigint as calls, sum(interactions)::bigint as interactions,
        sum(seconds) as seconds, array[{buckets}] as buckets from {source}"""


def _added(table: str) -> str:
    buckets = ", ".join(f"{table}.buckets[{n + 1}] + excluded.buckets[{n + 1}]" for n in range(len(BUCKETS)))
    return f"""calls = {table}.calls + excluded.calls,
        interactions = {table}.interactions + excluded.interactions,
        seconds = {table}.seconds + excluded.seconds, buckets = array[{buckets}]"""


# A lost one's worker may settle it after all, and mostly soon.
_READY = f"""outcome is not null and started_at <= now() - make_interval(
    secs => {SETTLED_FOR} + case outcome when 'lost' then %(lease)s else 0 end)"""

READY = f"""coalesce((select {_READY} from invocations
    where id > (select upto from tallied) order by id limit 1), false)"""
"""Whether there is something to add up; takes ``lease``."""

_ROLL = f"""
with next as materialized (
    select {_MEASURED}, {_READY} as ready from invocations
    where id > %(upto)s order by id limit %(batch)s
),
-- of whom nobody settles a lost one at this moment, and nobody does before this is committed
lost as materialized (
    select id from invocations where id = any (array(select id from next where ready and outcome = 'lost'))
        and outcome = 'lost' for update skip locked
),
stop as materialized (
    select min(id) as id from next where not ready or (outcome = 'lost' and id not in (select id from lost))
),
settled as materialized (
    select * from next where id < coalesce((select id from stop), {2**63 - 1})
),
counted as materialized (
    select date_trunc('minute', started_at) as minute, outcome, {_COUNTED} from settled group by 1, 2
),
by_minute as (
    insert into tallies (minute, outcome, calls, interactions, seconds, buckets)
    select minute, outcome, calls, interactions, seconds, buckets from counted
    on conflict (minute, outcome) do update set {_added("tallies")}
),
ever as (
    insert into totals (outcome, calls, interactions, seconds, buckets)
    select outcome, {_summed("counted")} group by outcome
    on conflict (outcome) do update set {_added("totals")}
),
moved as (
    update tallied set upto = (select max(id) from settled) where exists (select from settled)
)
select count(*) from settled
"""


def roll(engine: Engine, lease: float) -> int:
    """Add up the calls that have their outcome for good, or are lost so long that they keep it; returns how many.

    By id, up to the first that is still under way. Each batch is one transaction, together with how far it went, and
    whoever comes at the same time leaves it alone: killed or asked twice, nothing is counted twice and nothing left
    out. A call that is settled after it was counted as lost stays counted as that.
    """
    total = 0
    for _ in range(BATCHES):
        done = _roll(engine, lease)
        total += done
        if done < BATCH:
            break
    return total


def _roll(engine: Engine, lease: float) -> int:
    with engine.begin() as conn:
        upto = conn.exec_driver_sql("select upto from tallied for update skip locked").scalar()
        if upto is None:
            return 0
        return int(conn.exec_driver_sql(_ROLL, {"upto": upto, "lease": lease, "batch": BATCH}).scalar_one())


# --- since ever -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Total:
    """What calls with one outcome came to.

    Attributes:
        calls: how many.
        interactions: how many interactions they carried.
        seconds: that those took which have a time: all but the lost ones.
        buckets: how many took how long, one number for each of ``BUCKETS``, not cumulative.
    """

    calls: int
    interactions: int
    seconds: float
    buckets: list[int]


# A lost call may still be settled: it is counted when it is added up, and by then for good.
_TOTALS = f"""
with fresh as materialized (
    select * from (select {_MEASURED} from invocations
        where id > (select upto from tallied) order by id limit {UNTALLIED}) next
    where outcome <> 'lost'
),
both_ as (
    select outcome, calls, interactions, seconds, buckets from totals
    union all
    select outcome, {_COUNTED} from fresh group by outcome
)
select outcome, {_summed("both_")} group by outcome order by outcome
"""


def totals(conn: Connection) -> dict[str, Total]:
    """What calls came to since ever, by outcome; no number ever goes down, whatever is pruned."""
    found = conn.exec_driver_sql(_TOTALS)
    return {
        row.outcome: Total(row.calls, row.interactions, float(row.seconds), list(row.buckets))
        for row in found
    }


# --- over time ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bin:
    """What the calls came to that started within one step of time.

    Attributes:
        at: when the step began.
        outcomes: calls and the interactions that they carried, by outcome.
        buckets: how many took how long, of those that the API may have had; not cumulative.
        seconds: that these took.
    """

    at: datetime
    outcomes: dict[str, tuple[int, int]] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    seconds: float = 0.0


_UNANSWERED = ("not_sent", "lost")
"""Outcomes that say nothing about how fast the API is."""

_START = (
    "to_timestamp(floor(extract(epoch from now() - make_interval(secs => %(since)s)) / %(step)s) * %(step)s)"
)
_SERIES = f"""
with fresh as materialized (
    select * from (select {_MEASURED} from invocations
        where id > (select upto from tallied) order by id desc limit {UNTALLIED}) newest
    where outcome is not null and started_at >= {_START}
),
both_ as (
    select minute, outcome, calls, interactions, seconds, buckets from tallies where minute >= {_START}
    union all
    select date_trunc('minute', started_at), outcome, {_COUNTED} from fresh group by 1, 2
),
stepped as (
    select *, floor(extract(epoch from minute) / %(step)s)::bigint as step from both_
)
select step, outcome, {_summed("stepped")} group by step, outcome
"""


def series(conn: Connection, since_seconds: float, step_seconds: float) -> list[Bin]:
    """What calls came to in each step of time, the oldest first, the last one not over yet; steps are whole minutes.

    Those still under way are in none.
    """
    now = conn.exec_driver_sql("select extract(epoch from now())::float8").scalar_one()
    first, last = (int(at // step_seconds) for at in (now - since_seconds, now))
    bins = {n: Bin(datetime.fromtimestamp(n * step_seconds, UTC)) for n in range(first, last + 1)}
    for row in conn.exec_driver_sql(_SERIES, {"since": since_seconds, "step": step_seconds}):
        if row.step in bins:
            _add(bins[row.step], row)
    return list(bins.values())


def _add(into: Bin, row: Any) -> None:
    into.outcomes[row.outcome] = (row.calls, row.interactions)
    if row.outcome not in _UNANSWERED:
        into.buckets = [a + b for a, b in zip(into.buckets, row.buckets, strict=True)]
        into.seconds += float(row.seconds)


def percentile(buckets: Sequence[int], q: float) -> float | None:
    """The time within which a share of the calls was over, evenly spread within a bucket; None where there are none.

    What took longer than the last bound counts as that.
    """
    rank, passed = q * sum(buckets), 0
    if not sum(buckets):
        return None
    for (low, high), count in zip(pairwise((0.0, *BUCKETS)), buckets, strict=True):
        if count and passed + count >= rank:
            return low if high == BUCKETS[-1] else low + (high - low) * (rank - passed) / count
        passed += count
    return BUCKETS[-2]
