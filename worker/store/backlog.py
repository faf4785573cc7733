"""Record a backlog: dispatches of which nothing is known, a whole chunk in one statement and one commit.

A short cut of ``record`` that changes no rule: the pure rules decide as if nothing were known, and only those
dispatches land of which that is so. All others take the long way. Killed at any line: what landed is recorded as
if it had come alone, and the rest comes with the same import again.
"""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from worker.domain.lifecycle import Interaction
from worker.domain.meeting import Ask, Family, Met, meet
from worker.store.database import Where, as_json, is_about_values, patience, patiently, transaction
from worker.store.record import record
from worker.store.rows import ENDED_ROW, OPEN_ROW


def record_backlog(where: Where, asks: Sequence[Ask], *, grace: float) -> list[Met]:
    """Record as ``record`` does, and much faster where most is new; those rows are not told their ids.

    Raises:
        sqlalchemy.exc.DBAPIError: the database was away for longer than ``PATIENCE``, or refuses a value; the
            same asks can be recorded again.
    """
    new = {ask.requestid: meet(Family(grace), ask) for ask in _unrelated(asks)}
    landed = _land(where, [met.row for met in new.values() if met.row is not None])
    others = iter(record(where, [ask for ask in asks if ask.requestid not in landed], grace=grace))
    return [new[ask.requestid] if ask.requestid in landed else next(others) for ask in asks]


def _unrelated(asks: Sequence[Ask]) -> list[Ask]:
    """The dispatches that no other job of the chunk is about: among them the order makes no difference."""
    externalids = Counter([ask.job.externalid for ask in asks])
    requestids = Counter([ask.requestid for ask in asks])
    requestids.update([ask.job.dispatch_requestid for ask in asks if ask.job.dispatch_requestid])
    return [
        ask
        for ask in asks
        if ask.job.action == "dispatch" and externalids[ask.job.externalid] == requestids[ask.requestid] == 1
    ]


def _land(where: Where, rows: Sequence[Interaction]) -> set[str]:
    """Insert those of the rows of which nothing is known; returns their requestids.

    A chunk with a value that the database refuses lands nothing: the long way finds out whose it is.
    """
    if not rows:
        return set()
    try:
        return patiently(lambda: _insert(where, rows), seconds=patience(where))
    except DBAPIError as error:
        if not is_about_values(error):
            raise
        return set()


def _insert(where: Where, rows: Sequence[Interaction]) -> set[str]:
    jobs = [
        {
            "externalid": row.externalid,
            "lane": row.lane,
            "route": row.route,
            "provider": row.provider,
            "request": row.request,
            "bytes": row.bytes,
            "requestid": row.dispatch_requestid,
        }
        for row in rows
    ]
    with transaction(where) as conn:
        return set(conn.exec_driver_sql(_INSERT, {"jobs": as_json(jobs)}).scalars())


# Of what somebody else inserts at the same moment a unique index knows. Each look-up has its limit, so that it stays
# one of an index whatever the planner believes; the order is that of ``rows.insert``, for its reasons.
_INSERT = f"""
insert into interactions (externalid, state, lane, route, provider, request, bytes, dispatch_requestid, due_at)
select externalid, 'pending', lane, route, provider, request, bytes, requestid,
    case when (select true from routes where route = j.route and held_at is not null limit 1)
         then 'infinity'::timestamptz else now() end
from jsonb_to_recordset(%(jobs)s::jsonb) as j(externalid text, lane text, route text, provider text,
    request jsonb, bytes integer, requestid text)
where coalesce(
    (select false from interactions where externalid = j.externalid and {OPEN_ROW} limit 1),
    (select false from interactions where externalid = j.externalid and state = 'waiting' limit 1),
    (select false from interactions where externalid = j.externalid and {ENDED_ROW} limit 1),
    (select false from interactions where dispatch_requestid = j.requestid limit 1),
    (select false from interactions where release_requestid = j.requestid limit 1),
    (select false from receipts where requestid = j.requestid limit 1),
    true)
order by externalid
on conflict do nothing
returning dispatch_requestid"""
