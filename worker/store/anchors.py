"""Where a search starts: the index that brings the rows of a filter, newest id first, and the ids it is bounded by.

There is no index for each filter, since claim and settle would pay for it. A search goes down the one index that fits
best, and looks at what it finds there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from worker.store.rows import ENDED_ROW, OPEN_ROW

FEW = 10_000
"""So many rows of a partial index are read and sorted for a page."""

SLACK = 600.0
"""Seconds by which a row's time may be behind its id's place: its transaction began so much earlier at most."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The rows to look at.

    Attributes:
        arms: SQL conditions; no row fits two of them.
        order: the columns of the first one's index, where that does not give the rows by their id: it has few.
    """

    arms: Sequence[str] = ("true",)
    order: str = ""

    def newest(self, columns: str) -> str:
        """The SQL of the newest ``%(look)s`` rows from ``%(floor)s`` up to ``%(below)s``."""
        between = "id >= %(floor)s and id < %(below)s"
        if self.order:
            # twice as many as there were when they were counted: none is cut off
            found = f"""select * from ({self._few(columns, 2 * FEW)}) few where {between}"""
        else:
            found = " union all ".join(
                f"""(select {columns} from interactions where {arm} and {between}
                order by id desc limit %(look)s)"""
                for arm in self.arms
            )
        return f"select * from ({found}) found order by id desc limit %(look)s"

    def are_few(self, conn: Connection) -> bool:
        """Whether there are few enough to read all of them."""
        counted = f"select count(*) from ({self._few('1', FEW + 1)}) few"
        with self.steady(conn):
            return int(conn.exec_driver_sql(counted).scalar_one()) <= FEW

    @contextmanager
    def steady(self, conn: Connection) -> Iterator[None]:
        """Have an index that is not by id read in its order and no further than wanted.

        Where the planner takes it for small it would rather gather and sort all of it, and may be wrong.
        """
        if not self.order:
            yield
            return
        conn.exec_driver_sql("set local enable_bitmapscan = off; set local enable_sort = off")
        yield
        conn.exec_driver_sql("set local enable_bitmapscan = on; set local enable_sort = on")

    def _few(self, columns: str, limit: int) -> str:
        """The first rows in the order of their index: else the planner might seek them along the primary key."""
        return f"select {columns} from interactions where {self.arms[0]} order by {self.order} limit {limit}"


ALL = Anchor()
EXTERNALID = Anchor(
    tuple(f"externalid = %(externalid)s and {arm}" for arm in (OPEN_ROW, "state = 'waiting'", ENDED_ROW))
)
ERRORS = Anchor(("last_error is not null",))
IN_LINE = Anchor(("state in ('pending', 'releasing')",), "provider, rank, due_at")
BY_STATE = {
    **{
        state: Anchor((f"state = '{state}'",))
        for state in ("failed", "release_failed", "cancelled", "ended", "orphaned")
    },
    "awaiting_dispatch": Anchor(("state = 'awaiting_dispatch'",), "due_at"),
    "waiting": Anchor(("state = 'waiting'",), "externalid"),
    "dispatched": Anchor(("state = 'dispatched'",), "dispatched_at"),
    "pending": IN_LINE,
    "releasing": IN_LINE,
}


def anchor(conn: Connection, *, externalid: str | None, state: str | None, error: str | None) -> Anchor:
    """Choose the index for a filter; one that is not by id only where it holds few rows."""
    if externalid is not None:
        return EXTERNALID
    by_state = BY_STATE.get(state or "")
    if by_state and (not by_state.order or by_state.are_few(conn)):
        return by_state
    return ALL if error is None else ERRORS


# Down the primary key by halves, all in one statement: the least id from which on the rows are as young as that.
_FIRST_AT = """
with recursive half as (
    (select (select id from interactions order by id limit 1) as low,
        (select id + 1 from interactions order by id desc limit 1) as high)
    union all
    select case when young then half.low else probe.id + 1 end, case when young then half.middle else half.high end
    from (select low, high, low + (high - low) / 2 as middle from half where low < high) half
    cross join lateral (
        select id, created_at >= %(at)s::timestamptz + %(slack)s * interval '1 second' as young
        from interactions i where i.id >= half.middle order by i.id limit 1) probe
)
select coalesce(max(low), 0) from half where low >= high
"""


def bounds(
    conn: Connection, after: datetime | None, before: datetime | None
) -> tuple[int | None, int | None]:
    """The ids between which all rows created from the one time up to the other are; None where there is no bound.

    Ids rise with time, but for the length of a transaction; a row may be a little outside of the times, none is missed.
    """
    floor = None if after is None else _first_at(conn, after, -SLACK)
    below = None if before is None else _first_at(conn, before, SLACK)
    return floor, below


def _first_at(conn: Connection, at: datetime, slack: float) -> int:
    return int(conn.exec_driver_sql(_FIRST_AT, {"at": at, "slack": slack}).scalar_one())
