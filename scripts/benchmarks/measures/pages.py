"""The operators' page where millions have ended: server time of every view, and whether each goes by an index."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection

from benchmarks.stand import Stand
from benchmarks.measures.tables import each, filling

ENDED, OTHERS, QUICK = 5_000_000, 500_000, 50
"""Rows; a quick run has a fiftieth."""

SPAN = "90 days"

# In the order in which time would have brought them: most were released, a few of a thousand ended otherwise; of the
# last tenth some are in line, most are with the agents.
FILL = (
    """insert into interactions (externalid, state, lane, route, provider, request, bytes, dispatch_requestid,
        release_requestid, due_at, last_error, reason, attempts, created_at, dispatched_at, release_requested_at,
        released_at, updated_at)
    select 'mail-' || n, state::interaction_state, case when n %% 10 = 0 then 'backlog' else 'live' end,
        case when n %% 100000 = 7 then 'Rare route' else 'Route ' || n %% 5 end,
        case when n %% 250000 = 11 then 'Rare provider' else '' end,
        '{"linkeddata": [{"type": "subject", "value": "Where is my parcel? It was to come on Tuesday, and has not"},
          {"type": "email", "value": "somebody.with.a.long.name@somewhere.example.com"}],
          "routingdata": {"interactiontype": "nonlive"}}', 300,
        gen_random_uuid(),
        case when state not in ('pending', 'dispatched', 'waiting') then gen_random_uuid() end,
        case when state in ('pending', 'releasing') then now() + (n %% 100 - 50) * interval '1 minute'
            when state = 'awaiting_dispatch' then now() + interval '1 day' end,
        case when state like '%%failed' then case when n %% 1000000 = 990 then 'Unheard-of trouble ' || n
            else 'No such thing as ' || n %% 7 end end,
        case when state in ('cancelled', 'ended', 'orphaned') then 'as it was told' end, n %% 3, at,
        case when state <> 'pending' then at + interval '1 second' end,
        case when state not in ('pending', 'dispatched', 'waiting') then at + interval '1 hour' end,
        case when state = 'released' then at + interval '1 hour' end, at + interval '1 hour'
    from (select n, now() - (%(ended)s + %(others)s - n)::float8 / (%(ended)s + %(others)s) * %(span)s::interval as at,
            case when n > %(ended)s then case
                when (n - %(ended)s)::float8 / %(others)s < 0.56 then 'dispatched'
                when (n - %(ended)s)::float8 / %(others)s < 0.96 then 'pending'
                when (n - %(ended)s)::float8 / %(others)s < 0.99 then 'releasing'
                when (n - %(ended)s)::float8 / %(others)s < 0.995 then 'awaiting_dispatch'
                else 'waiting' end
            when n %% 1000 < 990 then 'released'
            else (array['failed', 'failed', 'failed', 'failed', 'release_failed', 'cancelled', 'cancelled', 'ended',
                'ended', 'orphaned'])[n %% 1000 - 989] end as state
        from generate_series(1, %(ended)s + %(others)s) n) made""",
    # a call for its dispatch and one for its release, with two hundred others
    """insert into invocations (provider, ids, releases, seconds, status, outcome, answer, bytes, started_at)
    select '', ids, case when release then ids else '{}' end, 0.03 + n %% 17 * 0.01, 200, 'accepted', '{}', 60000,
        now() - (%(ended)s - n * 200)::float8 / (%(ended)s + %(others)s) * %(span)s::interval
    from generate_series(0, %(ended)s / 200 - 1) n cross join (values (false), (true)) r(release)
    cross join lateral (select array(select generate_series(n * 200 + 1, n * 200 + 200)) as ids) i""",
    # one interaction that very many calls carried, and one that was refused
    """insert into invocations (provider, ids, seconds, status, outcome, error, answer, bytes, started_at)
    select '', array_prepend(%(carried)s::bigint, array(select generate_series(1, 499))::bigint[]), 30, 503, 'unknown',
        'Service Unavailable', repeat('an answer ', 100), 90000, now() - (600 - n) * interval '1 minute'
    from generate_series(1, 500) n""",
    """insert into invocations (provider, ids, seconds, status, outcome, error, answer, bytes, started_at)
    select '', case when n = 9 then array[990] else array(select generate_series(990, 990 + (511 >> n)))
        end::bigint[],
        0.1, 400, 'refused', 'No such thing as 3', '{"message": "No such thing as 3"}', 9000, now() - interval '1 hour'
    from generate_series(1, 9) n""",
    # the last minutes, not added up yet: fifty calls a second, as full as they can be
    """insert into invocations (provider, ids, seconds, status, outcome, answer, bytes, started_at)
    select '', array(select (n * 503 + i * 7) %% %(ended)s + 1 from generate_series(1, 500) i)::bigint[],
        0.03 + n %% 17 * 0.01, 200, 'accepted', '{}', 90000, now() - (%(recent)s - n) * interval '20 milliseconds'
    from generate_series(1, %(recent)s) n""",
    """insert into events (interaction_id, event, detail)
    select n * 5, 'duplicate', 'requestid ' || n from generate_series(1, %(others)s) n""",
    """insert into rejections (door, place, reason, job)
    select 'stream', 'entry ' || n, 'route: required', convert_to(repeat('{"externalid": "x"} ', 20), 'UTF8')
    from generate_series(1, %(others)s / 10) n""",
    """insert into audit (at, who, action, detail)
    select now() - n * interval '1 minute', 'alice', 'pause', 'maintenance ' || n
    from generate_series(1, %(others)s / 10) n""",
    """insert into imports (who, source, route, share, read, new)
    select 'cli:bob', n || '.mbox', 'R', 0.5, 1000, 900 from generate_series(1, 500) n""",
    """insert into tallies (minute, outcome, calls, interactions, seconds, buckets)
    select date_trunc('minute', now()) - n * interval '1 minute', outcome, 3000, 150000, 300, '{1,2,3,4,5,6,7,8,9,10}'
    from generate_series(3, 60 * 24 * 90) n, unnest(array['accepted', 'unknown', 'throttled', 'refused']) outcome""",
    """insert into totals (outcome, calls, interactions, seconds, buckets)
    select outcome, sum(calls), sum(interactions), sum(seconds), '{1,2,3,4,5,6,7,8,9,10}' from tallies group by 1""",
    "update tallied set upto = (select count(*) from invocations where started_at < now() - interval '3 minutes')",
)
LARGE = "interactions", "invocations", "events", "tallies", "rejections", "audit"


def fill(stand: Stand, share: int) -> None:
    """Fill every table that a page reads."""
    empty(stand)
    ended, others = ENDED // share, OTHERS // share
    with filling(stand) as conn:
        for statement in FILL:
            _run(
                conn,
                statement,
                {
                    "ended": ended,
                    "others": others,
                    "span": SPAN,
                    "recent": 9_000 // share,
                    "carried": ended + 1,
                },
            )
    each(stand, f"analyze {', '.join(LARGE)}, imports")


def _run(conn: Connection, statement: str, params: dict[str, Any]) -> None:
    conn.exec_driver_sql(statement, params)


def empty(stand: Stand) -> None:
    """Empty every table, and number the rows from 1 again."""
    with stand.engine.begin() as conn:
        conn.exec_driver_sql(
            f"truncate {', '.join(LARGE)}, receipts, inbox, totals, imports, sessions restart identity"
        )
        conn.exec_driver_sql("update tallied set upto = 0")
