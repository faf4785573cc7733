"""What a running import reports of itself, for whoever looks; the import itself needs none of it."""

from sqlalchemy import Connection


def begin(conn: Connection, who: str, source: str, route: str | None) -> int:
    """Say that an import begins; its id is for the reports."""
    return int(
        conn.exec_driver_sql(
            "insert into imports (who, source, route) values (%(who)s, %(source)s, %(route)s) returning id",
            {"who": who, "source": source, "route": route},
        ).scalar_one()
    )


def report(
    conn: Connection, identity: int, share: float | None, read: int, new: int, duplicate: int, rejected: int
) -> None:
    """Say how far it is: the share of its sources, None where that is unknown, and what has come of the entries."""
    conn.exec_driver_sql(
        """update imports set updated_at = clock_timestamp(), share = %(share)s, read = %(read)s, new = %(new)s,
            duplicate = %(duplicate)s, rejected = %(rejected)s
        where id = %(id)s and ended_at is null""",
        {
            "id": identity,
            "share": share,
            "read": read,
            "new": new,
            "duplicate": duplicate,
            "rejected": rejected,
        },
    )


def end(conn: Connection, identity: int, outcome: str) -> None:
    """Say that it is over, and how it ended; the first word counts."""
    conn.exec_driver_sql(
        """update imports set ended_at = clock_timestamp(), updated_at = clock_timestamp(), outcome = %(outcome)s
        where id = %(id)s and ended_at is null""",
        {"id": identity, "outcome": outcome},
    )
