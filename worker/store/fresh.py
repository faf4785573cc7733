"""Record dispatches of which nothing is known, claimed already: one statement, one commit, one round trip.

The pure rules decide as if nothing were known; this writes what they decided if that is so, and nothing otherwise.
So it is a short cut of ``record`` and ``claim`` that changes no rule: a lone job in an idle system is half of its
time ahead. Killed before the commit: nothing is recorded. After it: the rows come back by their lease.
"""

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.domain.lifecycle import Interaction
from worker.store import gate
from worker.store.claim import NOTHING_MORE_URGENT, Claim, Terms, fits, ranks, sent
from worker.store.database import as_json, single
from worker.store.rows import ENDED_ROW, OPEN_ROW, RECORD, wire


def record_fresh(conn: Connection, rows: Sequence[Interaction], terms: Terms) -> Claim | None:
    """Insert the rows as claimed by one call; None, and nothing written, where anything stands against it.

    Args:
        conn: outside of a transaction.
        rows: dispatches to be sent; they get their ids.
        terms: what one call takes.
    """
    if not fits(rows, terms):
        return None
    try:
        with single(conn):
            found = conn.exec_driver_sql(
                RECORD_FRESH,
                {
                    "rows": as_json([wire(row) for row in rows]),
                    "provider": rows[0].provider,
                    "ids": [],
                    "ranks": ranks(rows),
                    "lease": terms.lease,
                },
            ).all()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None  # somebody else was first; the long way finds out how they meet
    ids = {row.dispatch_requestid: row.id for row in found}
    for row in rows:
        row.id = ids.get(row.dispatch_requestid)
    return (
        Claim(found[0].call, rows[0].provider, [sent(row) for row in rows], False, found[0].epoch)
        if found
        else None
    )


# With its limit each is an index look-up a job; of a bare EXISTS the planner may make a hash of the whole index.
_NOTHING_KNOWN = f"""not exists (select from job j where
    (select true from interactions where externalid = j.externalid and {OPEN_ROW} limit 1)
    or (select true from interactions where externalid = j.externalid and state = 'waiting' limit 1)
    or (select true from interactions where externalid = j.externalid and {ENDED_ROW} limit 1)
    or (select true from interactions where dispatch_requestid = j.dispatch_requestid limit 1)
    or (select true from interactions where release_requestid = j.dispatch_requestid limit 1)
    or (select true from receipts where requestid = j.dispatch_requestid limit 1)
    or (select true from routes where route = j.route and held_at is not null limit 1))"""

# The call's id is drawn first, since the rows and the call name each other. What somebody else inserts at the same
# moment violates a unique index, and so undoes it all.
RECORD_FRESH = f"""
with job as materialized (select * from jsonb_to_recordset(%(rows)s::jsonb) as r({RECORD})),
valve as materialized (select epoch from gate where {gate.FREE}),
call as materialized (
    select nextval(pg_get_serial_sequence('invocations', 'id')) as id from valve
    where {NOTHING_MORE_URGENT} and {_NOTHING_KNOWN}
),
new as (
    insert into interactions (externalid, state, lane, route, provider, request, bytes, dispatch_requestid,
        due_at, call, unsure, attempts, first_sent_at)
    select j.externalid, 'pending', j.lane, j.route, j.provider, coalesce(j.request, '{{}}'), j.bytes,
        j.dispatch_requestid, clock_timestamp() + %(lease)s * interval '1 second', call.id, array[call.id], 1,
        clock_timestamp()
    from job j cross join call order by j.externalid
    returning id, dispatch_requestid, call
),
noted as (
    insert into invocations (id, provider, ids) overriding system value
    select call, %(provider)s, array_agg(id) from new group by call
)
select id, dispatch_requestid, call, (select epoch from valve) as epoch from new
"""
