"""Claim: take the rows of one Invocation, on record before anything is sent.

Killed after the commit, the rows become due again when their lease ends, and are sent once more under the same
requestids: the API drops what it has. The call's record stays without an outcome and is called lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from worker.domain.lifecycle import NOW, Interaction, State
from worker.domain.settlement import take_back
from worker.store import gate, rows

RANKS = [0, 1, 2]  # releases, live, backlog
BACKLOG_FIRST = [2, 0, 1]
BACKLOG_SHARE = 10
PROBE_WINDOW = 200


class Claimed(msgspec.Struct, frozen=True, array_like=True):
    """One row in flight: what its request is made of."""

    id: int
    externalid: str
    action: str
    requestid: str
    route: str | None
    request: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """The rows of one Invocation and the call that carries them.

    Attributes:
        call: the id of the invocation: the fence of every later write.
        provider: of all the rows; empty for none.
        rows: in the order of their urgency.
        full: more may be due; a helper is worth waking.
        epoch: the valve's, where the claim itself has looked at it.
    """

    call: int
    provider: str
    rows: Sequence[Claimed]
    full: bool
    epoch: int | None = None


def claim(
    conn: Connection,
    *,
    limit: int,
    budget: int,
    lease: float,
    give_up_after: float,
    turn: int,
    probe: bool = False,
) -> Claim | None:
    """Claim the most urgent rows of one provider, or None where nothing is due.

    Args:
        conn: a transaction of its own, to be committed before anything is sent.
        limit: rows at most.
        budget: bytes of the encoded rows at most, a comma each included; a single row may be larger.
        lease: seconds until the rows are due again should this worker die.
        give_up_after: rows first sent longer ago are left to the sweep: the API may have forgotten their requestid.
        turn: every tenth takes the backlog first.
        probe: one row only, the one tried least, so that a poisonous one can't keep the valve closed.
    """
    found = conn.exec_driver_sql(
        CLAIM,
        {
            "ranks": RANKS if turn % BACKLOG_SHARE else BACKLOG_FIRST,
            "scan": PROBE_WINDOW if probe else limit,
            "limit": 1 if probe else limit,
            "budget": budget,
            "lease": lease,
            "give_up": give_up_after,
            "probe": probe,
        },
    ).one_or_none()
    return Claim(found.call, found.provider, _CLAIMED.decode(found.rows), found.full) if found else None


_CLAIMED = msgspec.json.Decoder(list[Claimed])


@dataclass(frozen=True, slots=True)
class Terms:
    """What one call takes: rows, bytes of the encoded rows with a comma each; and the seconds of its lease."""

    limit: int
    budget: int
    lease: float


def claim_recorded(conn: Connection, recorded: Sequence[Interaction], terms: Terms) -> Claim | None:
    """Claim rows in the transaction that records them: those alone, as one call, or none.

    None where the valve asks for anything, or they don't fit, or something as urgent as they is due already: then
    ``claim`` takes them in their turn, together with the rest.
    """
    fresh = list({row.id: row for row in recorded if _is_due(row)}.values())
    if not fits(fresh, terms):
        return None
    found = conn.exec_driver_sql(
        CLAIM_RECORDED,
        {
            "provider": fresh[0].provider,
            "ids": [row.id for row in fresh],
            "releases": [row.id for row in fresh if row.state is State.RELEASING],
            "ranks": ranks(fresh),
            "lease": terms.lease,
        },
    ).all()
    if not found:
        return None
    rows_sent = [sent(row) for row in fresh]
    return Claim(found[0].call, fresh[0].provider, rows_sent, False, found[0].epoch)


def _is_due(row: Interaction) -> bool:
    return row.state in (State.PENDING, State.RELEASING) and row.due == NOW and row.call is None


def fits(fresh: Sequence[Interaction], terms: Terms) -> bool:
    """Whether rows go in one call: of one provider, not too many, not too large."""
    one = len({row.provider for row in fresh}) == 1
    return one and len(fresh) <= terms.limit and sum(row.bytes + 1 for row in fresh) <= terms.budget + 1


def ranks(fresh: Sequence[Interaction]) -> list[int]:
    """The ranks that are as urgent as the least urgent of the rows, or more so."""
    least = max(0 if row.state is State.RELEASING else 1 if row.lane == "live" else 2 for row in fresh)
    return RANKS[: 1 + least]


def sent(row: Interaction) -> Claimed:
    """What is sent of a row that was recorded just now."""
    identity = row.id or 0
    if row.state is State.RELEASING:
        return Claimed(identity, row.externalid, "release", row.release_requestid or "", row.route, {})
    return Claimed(identity, row.externalid, "dispatch", row.dispatch_requestid or "", row.route, row.request)


NOTHING_MORE_URGENT = """
    not exists (select from providers where provider = %(provider)s and closed_until > now())
    and not exists (
        select from unnest(%(ranks)s::smallint[]) as r(rank) cross join lateral (
            select from interactions where state in ('pending', 'releasing') and provider = %(provider)s
              and rank = r.rank and due_at <= now() and id <> all (%(ids)s::bigint[])
            order by due_at limit 1) more)"""

CLAIM_RECORDED = f"""
with valve as (select epoch from gate where {gate.FREE}),
call as (
    insert into invocations (provider, ids, releases)
    select %(provider)s, %(ids)s::bigint[], %(releases)s::bigint[] from valve where {NOTHING_MORE_URGENT}
    returning id
)
update interactions i set call = call.id, unsure = i.unsure || call.id, attempts = i.attempts + 1,
    first_sent_at = coalesce(i.first_sent_at, clock_timestamp()), updated_at = clock_timestamp(),
    due_at = clock_timestamp() + %(lease)s * interval '1 second'
from call where i.id = any (%(ids)s::bigint[])
returning call.id as call, (select epoch from valve) as epoch
"""

# One index scan a provider and rank finds the head, past what others have locked; then one a rank takes the rows:
# never an order over both, which would walk every row that waits for its retry. Rows refused together share their
# due_at to the microsecond: once the head has a cap, only its group travels, and of one route, so that halving soon
# separates the bad from the good. The rows come as one JSON: as many values one by one cost four times the time.
CLAIM = """
with recursive
ranks as (select rank, place from unnest(%(ranks)s::smallint[]) with ordinality as r(rank, place)),
{names},
head as (
    select n.provider, d.due_at, d.route, r.rank, case when not %(probe)s then d.cap end as cap,
        case when d.cap is null or %(probe)s then now() else d.due_at end as until
    from names n cross join ranks r cross join lateral (
        select due_at, cap, route from interactions
        where state in ('pending', 'releasing') and provider = n.provider and rank = r.rank
          and due_at <= now()
          and (first_sent_at is null or first_sent_at > now() - %(give_up)s * interval '1 second')
        order by due_at limit 1 for update skip locked) d
    where n.provider is not null
      and not exists (select from providers p where p.provider = n.provider and p.closed_until > now())
    order by r.place, d.due_at limit 1
),
a as materialized ( {first} ), b as materialized ( {second} ), c as materialized ( {third} ),
due as (
    select 1 as place, * from a union all select 2, * from b union all select 3, * from c
),
ranked as (
    select *, row_number() over w as n, sum(bytes + 1) over w as total, count(*) over () as seen,
        min(coalesce(cap, %(limit)s)) over w as smallest
    from due
    window w as (order by case when %(probe)s then attempts else 0 end, place, due_at, id
                 rows unbounded preceding)
),
pick as (
    select * from ranked where n <= least(%(limit)s, smallest) and (total <= %(budget)s + 1 or n = 1)
),
call as (
    insert into invocations (provider, ids, releases, probe)
    select (select provider from head), array_agg(id order by n),
        coalesce(array_agg(id) filter (where state = 'releasing'), '{{}}'), %(probe)s
    from pick having count(*) > 0
    returning id, provider
),
flown as (
    update interactions i set call = call.id, unsure = i.unsure || call.id, attempts = i.attempts + 1,
        first_sent_at = coalesce(i.first_sent_at, clock_timestamp()), updated_at = clock_timestamp(),
        due_at = clock_timestamp() + %(lease)s * interval '1 second'
    from pick, call where i.id = pick.id
    returning pick.n, json_build_array(i.id, i.externalid,
        case when i.state = 'releasing' then 'release' else 'dispatch' end,
        case when i.state = 'releasing' then i.release_requestid else i.dispatch_requestid end,
        i.route, i.request) as row
)
select call.id as call, call.provider, (select json_agg(row order by n) from flown)::text as rows,
    (select max(seen) >= %(scan)s or max(seen) > count(*) from pick)
        or exists (select from head where cap is not null) as full
from call
"""

# The head is asked for value by value: to a join the planner would bring every due row of the lane, and sort.
_SCAN = """
    select id, state, bytes, cap, attempts, due_at from interactions
    where state in ('pending', 'releasing') and provider = (select provider from head)
      and rank = (%(ranks)s::smallint[])[{place}] and due_at <= (select until from head)
      and (first_sent_at is null or first_sent_at > now() - %(give_up)s * interval '1 second')
      and ((select cap from head) is null or (rank, due_at) = (select rank, due_at from head)
          and route is not distinct from (select route from head))
    order by due_at limit {left} for update skip locked
"""

# Which providers have work: one index descent each, whatever the number of rows.
NAMES = """
names as (
    (select provider from interactions where state in ('pending', 'releasing') order by provider limit 1)
    union all
    select (select i.provider from interactions i
            where i.state in ('pending', 'releasing') and i.provider > names.provider
            order by i.provider limit 1)
    from names where names.provider is not null
)"""

CLAIM = CLAIM.format(
    names=NAMES,
    first=_SCAN.format(place=1, left="%(scan)s"),
    second=_SCAN.format(place=2, left="greatest(%(scan)s - (select count(*) from a), 0)"),
    third=_SCAN.format(
        place=3, left="greatest(%(scan)s - (select count(*) from a) - (select count(*) from b), 0)"
    ),
)


def give_back(conn: Connection, call: int, ids: Sequence[int]) -> None:
    """Give rows back that were not sent; one that was released meanwhile is over."""
    found = rows.lock(conn, "select unnest(%(ids)s::bigint[])", {"ids": list(ids)})
    for row in found:
        take_back(row, call)
    rows.update(conn, found)
    rows.start_waiting(conn, rows.endings(found))
    conn.exec_driver_sql(
        """update invocations set ids = (select coalesce(array_agg(i), '{}') from unnest(ids) i
            where i <> all (%(ids)s)) where id = %(call)s""",
        {"call": call, "ids": list(ids)},
    )
    conn.exec_driver_sql("delete from invocations where id = %(call)s and ids = '{}'", {"call": call})


def oldest_due(conn: Connection) -> float | None:
    """Seconds that the most overdue row has been due; None where nothing is due.

    Refused rows are put ahead of the rest by an early ``due_at``: they count from when that happened.
    """
    return conn.exec_driver_sql(
        f"""with recursive {NAMES}
        select max(greatest(extract(epoch from now() - greatest(d.due_at, d.updated_at)), 0))::float8
        from names n cross join (values (0), (1), (2)) r(rank) cross join lateral (
            select due_at, updated_at from interactions
            where state in ('pending', 'releasing') and provider = n.provider and rank = r.rank
              and due_at <= now()
            order by due_at limit 1) d"""
    ).scalar()
