"""What operations want to know: counts, lists, and the whole story of one externalid."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select, text

from worker.domain.lifecycle import State
from worker.store import gate
from worker.store.claim import oldest_due
from worker.store.database import as_json
from worker.store.rows import ENDED_ROW, OPEN_ROW
from worker.store.tables import interactions
from worker.store.timeline import MARKS, timeline

LISTED = "id externalid state route provider lane attempts due_at last_error created_at updated_at".split()


def stats(conn: Connection) -> dict[str, Any]:
    """The whole at a glance, in the shape that ``vcc stats --json`` prints."""
    counted = conn.exec_driver_sql("select state, count(*) from interactions group by state").all()
    states = dict.fromkeys(map(str, State), 0) | {row[0]: row[1] for row in counted}
    row = conn.exec_driver_sql(
        """select
            (select count(*) from interactions where state in ('pending', 'releasing') and due_at <= now()) as due,
            (select count(*) from interactions
             where state in ('pending', 'releasing') and call is not null and due_at > now()) as in_flight,
            (select count(*) from rejections) as rejections,
            (select count(*) from events where event = 'duplicate') as duplicates,
            (select count(*) from invocations where status is not null or outcome = 'unknown') as calls,
            (select count(*) from invocations where outcome = 'accepted') as accepted,
            (select coalesce(sum(cardinality(ids)), 0) from invocations where outcome = 'accepted') as interactions"""
    ).one()
    by_status = conn.exec_driver_sql(
        "select status, count(*) from invocations where status is not null group by 1 order by 1"
    ).all()
    held = conn.exec_driver_sql("select route, message from routes where held_at is not null order by 1")
    closed = conn.exec_driver_sql(
        "select provider, message from providers where closed_until > now() order by 1"
    )
    return {
        "states": states,
        "due": row.due,
        "oldest_due_seconds": oldest_due(conn),
        "in_flight": row.in_flight,
        "gate": asdict(gate.read(conn)),
        "held_routes": dict(map(tuple, held)),
        "held_providers": dict(map(tuple, closed)),
        "invocations": {
            "calls": row.calls,
            "accepted": row.accepted,
            "interactions": int(row.interactions),
            "by_status": {str(status): calls for status, calls in by_status},
        },
        "rejections": row.rejections,
        "duplicates": row.duplicates,
    }


def listing(
    conn: Connection,
    *,
    state: str | None = None,
    route: str | None = None,
    lane: str | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """The newest interactions first, narrowed by what is given."""
    columns = [interactions.c[name] for name in LISTED if name != "due_at"]
    # Python has no infinity among its times: what a held route keeps back has no time here
    due = func.nullif(interactions.c.due_at, text("'infinity'")).label("due_at")
    query = select(*columns, due).order_by(interactions.c.id.desc()).limit(limit)
    for name, value in (("state", state), ("route", route), ("lane", lane)):
        if value is not None:
            query = query.where(interactions.c[name] == value)
    return [{name: row[name] for name in LISTED} for row in conn.execute(query).mappings()]


def show(conn: Connection, externalid: str) -> list[dict[str, Any]]:
    """The lifecycles of an externalid, oldest first, each with its timeline."""
    arms = " union all ".join(
        f"select {COLUMNS} from interactions where externalid = %(externalid)s and {arm}"
        for arm in (OPEN_ROW, "state = 'waiting'", ENDED_ROW)
    )
    found = conn.exec_driver_sql(f"{arms} order by id", {"externalid": externalid}).mappings().all()
    return [_lifecycle(conn, row) for row in found]


SHOWN = "state route provider lane dispatch_requestid release_requestid attempts last_error reason".split()
COLUMNS = ", ".join([*SHOWN, *(name for name in MARKS if name not in SHOWN)])


def _lifecycle(conn: Connection, row: Any) -> dict[str, Any]:
    moments, _ = timeline(conn, row)
    told = [{name: moment[name] for name in ("at", "event", "detail")} for moment in moments]
    return {name: row[name] for name in SHOWN} | {"timeline": told}


def with_lifecycle(conn: Connection, externalids: Sequence[str]) -> set[str]:
    """Those of the externalids that have a lifecycle, whatever its state."""
    arms = " union all ".join(
        f"(select 1 from interactions where externalid = a.externalid and {arm} limit 1)"
        for arm in (OPEN_ROW, "state = 'waiting'", ENDED_ROW)
    )
    return set(
        conn.exec_driver_sql(
            f"""select a.externalid
            from (select distinct value as externalid from jsonb_array_elements_text(%(ids)s::jsonb)) a
            where exists ({arms})""",
            {"ids": as_json(list(externalids))},
        ).scalars()
    )


def newest_id(conn: Connection) -> int:
    """The id of the newest interaction; 0 where there is none."""
    return int(conn.exec_driver_sql("select coalesce(max(id), 0) from interactions").scalar_one())


def progress(conn: Connection, after: int, until: int) -> dict[str, int]:
    """How many interactions have these ids, how many are still to be sent, and how many of the others failed."""
    row = conn.exec_driver_sql(
        """select count(*) as total, count(*) filter (where state in ('waiting', 'pending', 'releasing')) as to_be_sent,
            count(*) filter (where state in ('failed', 'release_failed')) as failed,
            count(*) filter (where due_at = 'infinity') as held
        from interactions where id > %(after)s and id <= %(until)s""",
        {"after": after, "until": until},
    ).one()
    return dict(row._mapping)


def rejections(conn: Connection, limit: int = 50) -> list[dict[str, Any]]:
    """The newest rejected jobs, without their content."""
    found = conn.exec_driver_sql(
        "select id, at, door, place, reason from rejections order by id desc limit %(limit)s",
        {"limit": limit},
    )
    return [dict(row) for row in found.mappings()]
