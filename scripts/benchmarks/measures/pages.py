"""The operators' page where millions have ended: server time of every view, and whether all goes by index."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
from sqlalchemy import Connection
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.figures import Figure
from benchmarks.measures.tables import each, filling
from benchmarks.plans import asked
from benchmarks.stand import Stand, say, until
from worker.domain.lifecycle import State
from worker.ops.web import serving
from worker.ops.web.app import make

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
    # the last minute, not added up yet: fifty calls a second, as full as they can be
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
    "update tallied set upto = (select count(*) from invocations where started_at < now() - interval '70 seconds')",
)
LARGE = "interactions", "invocations", "events", "tallies", "rejections", "audit"


SLOWEST = 200.0
"""Milliseconds of server time that a view may take."""

TIMES = 5
"""How often each view is asked for in a round."""


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Ask the very application for every view, as an operator's browser does, and time what it does itself."""
    share = QUICK if quick else 1
    ended, others = ENDED // share, OTHERS // share
    say(f"{ended:,} finished and {others:,} other interactions are written")
    fill(stand, share)
    deps = serving.deps(stand.settings)
    try:
        until(lambda: deps.census.counts() is not None)
        timed = Timed(make(deps))
        with asked(deps.engine) as told:
            asyncio.run(timed.ask(VIEWS, ended, 1))
        timed.took.clear()
        asyncio.run(timed.ask(VIEWS, ended, rounds * TIMES))
    finally:
        deps.engine.dispose()
        empty(stand)
    beside = f"{ended:,} finished and {others:,} others"
    for name, took in timed.took.items():
        yield Figure(f"{name}, beside {beside}: the slowest", max(took), "ms", SLOWEST, least=False)
    for statement, scans in told.whole().items():
        say(f"{', '.join(scans)}: {statement}")
    yield Figure("statements that read a large table as a whole", len(told.whole()), "", 0, least=False)


VIEWS = {
    "overview": ["/"],
    "interactions, the newest and far back": ["/interactions", "/interactions?before={far}"],
    "interactions by state": [f"/interactions?state={state}" for state in State],
    "interactions by route, provider or lane, common and rare": [
        "/interactions?route=Route+1",
        "/interactions?route=Rare+route",
        "/interactions?route=Rare+route&state=pending",
        "/interactions?route=Rare+route&before={far}",
        "/interactions?provider=Rare+provider",
        "/interactions?lane=backlog",
    ],
    "interactions by age": [
        "/interactions?age=7d",
        "/interactions?older=24h&state=dispatched",
        "/interactions?age=45d&older=44d&route=Rare+route",
    ],
    "interactions by text of the error": [
        "/interactions?error=SUCH",
        "/interactions?error=unheard-of",
        "/interactions?error=nothing+like+it",
    ],
    "interactions by externalid": ["/interactions?externalid=mail-{far}", "/interactions?externalid=unknown"],
    "the search for an externalid": ["/find?externalid=mail-{far}"],
    "one interaction": ["/interactions/{far}"],
    "one interaction, refused in halves": ["/interactions/990"],
    "one interaction that 500 calls carried": ["/interactions/{carried}"],
    "rejections": ["/rejections", "/rejections?before=500", "/rejections/5"],
    "audit": ["/audit", "/audit?before=500"],
    "metrics": ["/metrics"],
    "health": ["/healthz", "/readyz"],
}
"""The paths of each view; ``far`` is an interaction of long ago, ``carried`` the one that very many calls carried."""


class Timed:
    """An application, and how long its answers take it: from the request to the last byte.

    Attributes:
        took: milliseconds, by view.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.took: dict[str, list[float]] = {}
        self._app, self._view = app, ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        started = time.perf_counter()
        await self._app(scope, receive, send)
        self.took.setdefault(self._view, []).append((time.perf_counter() - started) * 1000)

    async def ask(self, views: dict[str, list[str]], ended: int, times: int) -> None:
        """Ask for each view so many times, as somebody on this machine."""
        here = httpx.ASGITransport(self, client=("127.0.0.1", 50_000))
        async with httpx.AsyncClient(transport=here, base_url="http://127.0.0.1:8000") as client:
            for self._view, paths in views.items():
                for path in paths * times:
                    answer = await client.get(path.format(far=ended // 5, carried=ended + 1))
                    if answer.status_code not in (httpx.codes.OK, httpx.codes.SEE_OTHER):
                        raise RuntimeError(f"{path} answered {answer.status_code}")


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
                    "recent": 3_300 // share,
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
