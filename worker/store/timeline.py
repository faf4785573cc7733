"""The timeline of one interaction: its own times, every call that carried it, what was remarked on the way."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from worker.domain.lifecycle import FINAL, State

MARKS = (
    "state lane route reason id created_at dispatched_at release_requested_at released_at updated_at".split()
)
"""The columns that a row must have to be told."""

Moment = dict[str, Any]


def timeline(
    conn: Connection, row: Any, *, words: bool = False, most: int | None = None
) -> tuple[list[Moment], bool]:
    """Tell what happened to the row, in its order.

    Args:
        conn: as anybody who may look.
        row: at least the columns of ``MARKS``.
        words: with the answers of the API, which may repeat what a customer wrote.
        most: so many calls and so many remarks at most, the newest; None: all.

    Returns:
        The moments, each with ``at``, ``event``, ``detail`` and, where it is a call, ``call``; and whether these are
        certainly all.
    """
    calls, events = _calls(conn, row["id"], most, words=words), _events(conn, row["id"], most)
    moments = [*_marks(row), *calls, *events]
    moments.sort(key=lambda moment: moment["at"])
    return moments, most not in (len(calls), len(events))


def _moment(at: datetime, event: str, detail: str, call: dict[str, Any] | None = None) -> Moment:
    return {"at": at, "event": event, "detail": detail, "call": call}


def _marks(row: Any) -> Sequence[Moment]:
    first = f"{row['lane']}, route {row['route']}" if row["route"] else "before its dispatch"
    marks = [
        (row["created_at"], "recorded", first),
        (row["dispatched_at"], "dispatched", ""),
        (row["release_requested_at"], "release requested", ""),
        (row["released_at"], "released", ""),
    ]
    if State(row["state"]) in FINAL and row["state"] != State.RELEASED:
        marks.append((row["updated_at"], row["state"], row["reason"] or ""))
    return [_moment(at, event, detail) for at, event, detail in marks if at is not None]


_CALL = "id, started_at, status, outcome, seconds, bytes, error"
"""By name: who may look may not see the answers."""


def _calls(conn: Connection, interaction: int, most: int | None, *, words: bool) -> list[Moment]:
    """Read the calls that carried an interaction, the newest so many, by the index of their lists."""
    found = conn.exec_driver_sql(
        f"""select * from (
            select {_CALL}{", answer" if words else ""}, cardinality(ids) as interactions,
                case when %(id)s = any (releases) then 'release' else 'dispatch' end as action
            from invocations where ids @> array[%(id)s::bigint] order by id desc limit %(most)s) newest
        order by id""",
        {"id": interaction, "most": most},
    )
    return [_carried(dict(call)) for call in found.mappings()]


def _carried(call: dict[str, Any]) -> Moment:
    parts = [f"call {call['id']}, with {call['interactions']}", call["outcome"] or "no outcome yet"]
    parts += [f"HTTP {call['status']}"] if call["status"] else []
    parts += [call["error"]] if call["error"] else []
    return _moment(call.pop("started_at"), f"{call['action']} sent", ", ".join(parts), call)


def _events(conn: Connection, interaction: int, most: int | None) -> list[Moment]:
    found = conn.exec_driver_sql(
        """select at, event, detail from (
            select * from events where interaction_id = %(id)s order by id desc limit %(most)s) newest
        order by id""",
        {"id": interaction, "most": most},
    )
    return [_moment(at, event, detail) for at, event, detail in found]
