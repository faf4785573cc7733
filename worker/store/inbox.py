"""The inbox: jobs that services insert in their own transactions, and the notification that wakes its reader."""

import time
from collections.abc import Sequence

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from worker.store.database import driver

CHANNEL = "vcc_inbox"


def read(conn: Connection, limit: int, budget: int) -> list[tuple[int, str]]:
    """The oldest jobs that are there: their ids and their JSON; so many, of so many bytes, but always one.

    In the order of their ids: of two that were committed one after the other, the second has the higher. One whose
    transaction took longer comes when it is there.
    """
    found = conn.exec_driver_sql(
        # as stored first, which is known without reading it; then as text, which may be a hundred times that
        """with page as materialized (
            select id, job, sum(pg_column_size(job)) over (order by id) - pg_column_size(job) as before
            from (select id, job from inbox order by id limit %(limit)s) oldest),
        told as materialized (select id, job::text as job from page where before <= %(budget)s)
        select id, job from (
            select id, job, sum(octet_length(job)) over (order by id) - octet_length(job) as before from told) t
        where before <= %(budget)s order by id""",
        {"limit": limit, "budget": budget},
    )
    return [(row.id, row.job) for row in found]


def remove(conn: Connection, ids: Sequence[int]) -> None:
    """Remove jobs that are recorded, or kept among the rejections."""
    conn.exec_driver_sql("delete from inbox where id = any (%(ids)s::bigint[])", {"ids": list(ids)})


def listen(conn: Connection) -> None:
    """Let this connection be notified from now on; behind a pooler it can't be."""
    if not driver(conn).kept:
        conn.exec_driver_sql(f"listen {CHANNEL}")


def wait(conn: Connection, seconds: float) -> bool:
    """Wait for a notification, so long at most, or look after that time; not within a transaction."""
    if driver(conn).kept:
        time.sleep(seconds)
        with conn.begin():
            return bool(conn.exec_driver_sql("select exists (select from inbox)").scalar_one())
    try:
        return bool(list(driver(conn).notifies(timeout=seconds, stop_after=1)))
    except psycopg.Error as error:
        raise OperationalError(None, None, error) from None
