"""Rows between the table and the pure rules: lock them, write back what changed, add new ones.

Record, settle, sweep and retry all have one shape: lock in a statement of its own, ordered by id, so that two of
them can wait for each other but never deadlock; decide in ``worker.domain``; write set-based.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from worker.domain.lifecycle import FINAL, KEPT, NEVER, OPEN, Interaction, State
from worker.store.database import as_json

OPEN_ROW = """(state in ('pending', 'dispatched', 'releasing')
    or (state = 'awaiting_dispatch' and dispatch_requestid is null))"""
ENDED_ROW = """(state in ('released', 'cancelled', 'ended', 'failed', 'release_failed', 'orphaned')
    or (state = 'awaiting_dispatch' and dispatch_requestid is not null))"""

_COLUMNS = (
    "externalid state lane route provider bytes dispatch_requestid release_requestid call unsure may_hold "
    "attempts cap last_error reason id"
).split()

_WIRE_NEVER = -2e9  # JSON has no infinity

_DUE = f"""case r.due when {_WIRE_NEVER} then 'infinity'::timestamptz
    else now() + r.due * interval '1 second' end"""


def lock(
    conn: Connection, ids_sql: str, params: dict[str, Any], *, request: bool = False
) -> list[Interaction]:
    """Lock the rows whose ids the SQL selects, in the order of their ids, and return them."""
    columns = [*_COLUMNS, "request"] if request else _COLUMNS
    found = conn.exec_driver_sql(
        f"""select {", ".join(columns)}, extract(epoch from now() - first_sent_at)::float8 as sent_for
        from interactions where id = any (array({ids_sql})) order by id for update""",
        params,
    )
    return [_interaction(row) for row in found.mappings()]


def _interaction(row: Any) -> Interaction:
    values = dict(row)
    values["state"] = State(values["state"])
    return Interaction(**values)


def update(conn: Connection, rows: Iterable[Interaction]) -> None:
    """Write the rows that changed.

    Those that leave the open states go first: a successor may take the same externalid in the same transaction.
    """
    changed = [row for row in rows if row.changed and row.id is not None]
    _update(conn, [row for row in changed if row.state not in OPEN])
    _update(conn, [row for row in changed if row.state in OPEN])


def _update(conn: Connection, rows: Sequence[Interaction]) -> None:
    if not rows:
        return
    # updated_at by the clock: a transaction that had to wait for a lock began before what it now follows
    conn.exec_driver_sql(
        f"""update interactions i set
            state = r.state::interaction_state, lane = r.lane, route = r.route, provider = r.provider,
            request = coalesce(r.request, i.request), bytes = r.bytes,
            dispatch_requestid = r.dispatch_requestid, release_requestid = r.release_requestid,
            due_at = case when r.due = {KEPT} then i.due_at else {_DUE} end,
            call = r.call, unsure = r.unsure, may_hold = r.may_hold, attempts = r.attempts, cap = r.cap,
            first_sent_at = case when r.clock_reset then null else i.first_sent_at end,
            last_error = r.last_error, reason = r.reason, updated_at = clock_timestamp(),
            dispatched_at = case when r.dispatched then now() else i.dispatched_at end,
            release_requested_at = case when r.release_requested then now() else i.release_requested_at end,
            released_at = case when r.released then now() else i.released_at end
        from jsonb_to_recordset(%(rows)s::jsonb) as r({RECORD})
        where i.id = r.id""",
        {"rows": as_json([wire(row) for row in rows])},
    )


def insert(conn: Connection, rows: Sequence[Interaction]) -> bool:
    """Insert the rows and give them their ids; False if any did not land because another got there first.

    The order keeps two inserters of the same externalids from deadlocking on the unique index; among those of
    one externalid the later one has the higher id.
    """
    if not rows:
        return True
    landed = conn.exec_driver_sql(
        f"""insert into interactions (externalid, state, lane, route, provider, request, bytes,
            dispatch_requestid, release_requestid, due_at, may_hold, reason,
            release_requested_at)
        select r.externalid, r.state::interaction_state, r.lane, r.route, r.provider,
            coalesce(r.request, '{{}}'), r.bytes, r.dispatch_requestid, r.release_requestid,
            {_DUE}, r.may_hold, r.reason, case when r.release_requested then now() end
        from jsonb_to_recordset(%(rows)s::jsonb) as r({RECORD})
        on conflict do nothing
        returning id, dispatch_requestid, release_requestid""",
        {"rows": as_json([wire(row) for row in sorted(rows, key=lambda row: row.externalid)])},
    ).all()
    ids = {(d, r): i for i, d, r in landed}
    for row in rows:
        row.id = ids.get((row.dispatch_requestid, row.release_requestid))
    return len(ids) == len(rows)


RECORD = """id bigint, externalid text, state text, lane text, route text, provider text, request jsonb,
    bytes integer, dispatch_requestid text, release_requestid text, due float8, call bigint,
    unsure bigint[], may_hold boolean, attempts integer, cap integer, last_error text, reason text,
    clock_reset boolean, dispatched boolean, release_requested boolean, released boolean"""


def wire(row: Interaction) -> dict[str, Any]:
    """The row as ``jsonb_to_recordset`` reads it by ``RECORD``."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    values["due"] = _WIRE_NEVER if row.due == NEVER else row.due
    values["request"] = row.request or None
    values["clock_reset"] = row.clock_reset
    values.update(dict.fromkeys(row.marks, True))
    return values


def remark(conn: Connection, events: Sequence[tuple[int, str, str]]) -> None:
    """Add to the timelines: interaction id, event, detail."""
    if events:
        conn.exec_driver_sql(
            """insert into events (interaction_id, event, detail)
            select (e->>0)::bigint, e->>1, e->>2 from jsonb_array_elements(%(events)s::jsonb) e""",
            {"events": as_json(events)},
        )


def endings(rows: Iterable[Interaction]) -> list[tuple[str, bool]]:
    """Of the rows that have just ended: the externalid, and whether something may be left behind in VCC."""
    return [(row.externalid, row.leftover) for row in rows if row.changed and row.state in FINAL]


def start_waiting(conn: Connection, ended: Sequence[tuple[str, bool]]) -> int:
    """Start the dispatches that waited for these to end, as ``endings`` has them; returns how many.

    A row of an earlier lifecycle, or a hold by name, may end too: while another one is open, they go on waiting.
    Where the predecessor leaves something behind in VCC, the successor has to know: its release is always sent.
    """
    if not ended:
        return 0
    return conn.exec_driver_sql(
        f"""update interactions i set state = 'pending', may_hold = i.may_hold or r.leftover,
            updated_at = clock_timestamp(),
            due_at = case when exists (select from routes where route = i.route and held_at is not null)
                     then 'infinity'::timestamptz else now() end
        from (select e->>0 as externalid, (e->>1)::boolean as leftover
              from jsonb_array_elements(%(ended)s::jsonb) e) r
        where i.externalid = r.externalid and i.state = 'waiting'
          and not exists (select from interactions where externalid = r.externalid and {OPEN_ROW})""",
        {"ended": as_json(ended)},
    ).rowcount
