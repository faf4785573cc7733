"""Who changed what by hand: added to, and never deleted from."""

from typing import Any

from sqlalchemy import Connection


def note(conn: Connection, who: str, action: str, detail: str = "") -> None:
    """Note a change, in the transaction that makes it: both stand, or neither."""
    conn.exec_driver_sql(
        "insert into audit (who, action, detail) values (%(who)s, %(action)s, %(detail)s)",
        {"who": who, "action": action, "detail": detail},
    )


def newest(conn: Connection, before: int | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """The newest changes, or the newest before the one with this id."""
    found = conn.exec_driver_sql(
        """select id, at, who, action, detail from audit
        where %(before)s::bigint is null or id < %(before)s order by id desc limit %(limit)s""",
        {"before": before, "limit": limit},
    )
    return [dict(row) for row in found.mappings()]


def pause(conn: Connection) -> dict[str, Any] | None:
    """Tell since when the valve is paused, and by whom: both were written in one transaction, at one time."""
    found = conn.exec_driver_sql(
        """select paused_at as at, (
            select who from audit where action = 'pause' and at = gate.paused_at limit 1) as who
        from gate where paused_at is not null"""
    ).mappings()
    return next(map(dict, found), None)
