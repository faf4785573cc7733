"""The valve: one row that every delivery passes before it claims, and looks at again just before it sends.

A call remembers the epoch that it entered in. The first unhappy outcome of an epoch moves the valve and begins
the next epoch, so that ten calls in flight together count as one failure. While the valve is closed nothing is
claimed; past the time one probe goes first, on a lease, and its outcome decides.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

SLOT_AHEAD = 2.0
"""Seconds that a delivery waits for its turn under a rate; past it, it leaves: the tick is not slower."""

LEAST_RATE = 1.0
RATE_GROWTH = 1.02
"""What each accepted call multiplies a learned rate by."""

FREE_RATE = 100.0
"""Calls per second past which a learned rate no longer binds."""

RATE = "case when slowed_at > now() - interval '10 minutes' then rate end"
"""The rate that a 429 taught; after ten minutes without another it is forgotten."""


FREE = (
    f"""failures = 0 and paused_at is null and coalesce(closed_until <= now(), true) and ({RATE}) is null"""
)
"""A valve that asks for nothing: open, healthy, no rate learned."""


@dataclass(frozen=True, slots=True)
class Passage:
    """The permission to make one call.

    Attributes:
        epoch: the valve's, as it was entered.
        probe: the valve was closed; this one call finds out whether it may open.
        wait: seconds until the call's turn under the rate.
        turn: counts claims, for the backlog's share.
        ailing: an accepted call has something to mend in the valve.
    """

    epoch: int
    probe: bool
    wait: float
    turn: int
    ailing: bool


def enter(conn: Connection, *, lease: float, limit: float | None) -> Passage | None:
    """Pass the valve, or get None where it is closed, paused, taken by a probe, or no turn is near.

    Args:
        conn: a transaction of its own: a healthy valve is only read, so that nobody waits for anybody.
        lease: seconds after which a probe that was not heard of again counts as dead.
        limit: calls per second allowed by the operator.
    """
    row = conn.exec_driver_sql(
        f"""select epoch, failures > 0 as ailing, nextval('turns') as turn,
            {RATE} as rate,
            paused_at is not null or coalesce(closed_until > now(), false) as shut from gate"""
    ).one()
    if row.shut or (row.ailing and not _take_probe(conn, lease)):
        return None
    rate = min((r for r in (limit, row.rate) if r is not None), default=None)
    wait = 0.0 if rate is None else _take_slot(conn, rate)
    if wait is None:
        if row.ailing:
            leave(conn)
        return None
    return Passage(row.epoch, row.ailing, wait, row.turn, row.ailing or row.rate is not None)


def _take_probe(conn: Connection, lease: float) -> bool:
    return bool(
        conn.exec_driver_sql(
            """update gate set probe_until = clock_timestamp() + %(lease)s * interval '1 second'
            where coalesce(probe_until <= now(), true)""",
            {"lease": lease},
        ).rowcount
    )


def _take_slot(conn: Connection, rate: float) -> float | None:
    return conn.exec_driver_sql(
        """update gate set next_slot = greatest(next_slot, clock_timestamp()) + interval '1 second' / %(rate)s
        where coalesce(next_slot <= clock_timestamp() + %(ahead)s * interval '1 second', true)
        returning greatest(extract(epoch from next_slot - clock_timestamp()) - 1 / %(rate)s, 0)::float8""",
        {"rate": rate, "ahead": SLOT_AHEAD},
    ).scalar()


def leave(conn: Connection) -> None:
    """Give a probe back that found nothing to send."""
    conn.exec_driver_sql("update gate set probe_until = null")


def still_open(conn: Connection, passage: Passage) -> bool:
    """Whether a call that passed may still be sent: nobody closed or paused the valve meanwhile."""
    return bool(
        conn.exec_driver_sql(
            """select paused_at is null and epoch = %(epoch)s
                and coalesce(closed_until <= now(), true) from gate""",
            {"epoch": passage.epoch},
        ).scalar_one()
    )


def close(
    conn: Connection,
    epoch: int,
    reason: str,
    message: str | None,
    *,
    wait: float,
    at_least: float | None = None,
) -> None:
    """Close the valve after an unhappy outcome.

    Args:
        conn: the settling transaction; the valve is the last that it locks.
        epoch: the call's. A later epoch has been closed by another already; only ``at_least`` adds to that.
        reason: throttled, unauthorised, unreachable or misconfigured.
        message: the API's words, for ``vcc stats``.
        wait: seconds after the first failure; doubled with each in a row, 60 s at most.
        at_least: seconds that the API asked for.
    """
    conn.exec_driver_sql(
        """update gate set epoch = epoch + 1, probe_until = null, reason = %(reason)s, message = %(message)s,
            failures = case when epoch = %(epoch)s then failures + 1 else greatest(failures, 1) end,
            closed_until = greatest(closed_until, clock_timestamp() + make_interval(secs =>
                coalesce(%(at_least)s::float8, least(%(wait)s * power(2, least(failures, 20)), 60))))
        where epoch = %(epoch)s or coalesce(
            closed_until < clock_timestamp() + make_interval(secs => %(at_least)s::float8),
            %(at_least)s::float8 is not null)""",
        {"epoch": epoch, "reason": reason, "message": message, "wait": wait, "at_least": at_least},
    )


def slow_down(conn: Connection, epoch: int) -> None:
    """Learn from a 429: half the calls per second that led to it, never below one."""
    conn.exec_driver_sql(
        f"""update gate set slowed_at = now(), rate = greatest(%(least)s, coalesce({RATE}, (
            select count(*) from (select started_at from invocations order by id desc limit 1000) i
            where started_at > now() - interval '1 second'
        )) / 2.0) where epoch = %(epoch)s""",
        {"least": LEAST_RATE, "epoch": epoch},
    )


def mend(conn: Connection, passage: Passage, limit: float | None) -> None:
    """Open the valve after a call that the API took, and let a learned rate recover a little.

    A call of an earlier epoch proves nothing about what closed the valve since.
    """
    conn.exec_driver_sql(
        """update gate set failures = 0, closed_until = null, reason = null, message = null,
            probe_until = null, rate = case when rate * %(growth)s < %(free)s then rate * %(growth)s end
        where epoch = %(epoch)s""",
        {"epoch": passage.epoch, "growth": RATE_GROWTH, "free": limit or FREE_RATE},
    )


def pause(conn: Connection, reason: str) -> None:
    """Close the valve by hand, until ``resume``; whatever else moves it does not touch this."""
    conn.exec_driver_sql(
        """update gate set paused_at = coalesce(paused_at, now()),
            pause_reason = coalesce(nullif(%(reason)s, ''), pause_reason, '')""",
        {"reason": reason},
    )


def resume(conn: Connection) -> None:
    """Take the pause back, and let a probe go at once; only what the API asked for still has to pass.

    Where nothing is to be sent, now or later, no probe would go, and the valve would tell its old reason until the next
    job comes: it is open then.
    """
    conn.exec_driver_sql(
        """update gate set paused_at = null, pause_reason = null, closed_until =
            case when reason = 'throttled' or closed_until is null then closed_until
                 else least(closed_until, now()) end"""
    )
    conn.exec_driver_sql(
        """update gate set failures = 0, closed_until = null, reason = null, message = null, probe_until = null
        where failures > 0 and closed_until <= now() and not exists (
            select from interactions where state in ('pending', 'releasing') and due_at < 'infinity')"""
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """The valve as people want to know it.

    Attributes:
        open: calls are made freely; not so while it is paused, closed, or waits for a probe's outcome.
        reason: why not.
        message: the API's words, or the operator's.
        opens_at: when the next probe may go; None until an operator resumes.
        rate: the calls per second that were learned from a 429, while they bind.
    """

    open: bool
    reason: str | None
    message: str | None
    opens_at: datetime | None
    rate: float | None


def read(conn: Connection) -> Reading:
    """Read the valve."""
    row: Any = conn.exec_driver_sql(f"select *, {RATE} as learned from gate").one()
    if row.paused_at is not None:
        return Reading(False, "paused", row.pause_reason, None, row.learned)
    closed = row.failures > 0
    return Reading(not closed, row.reason, row.message, row.closed_until if closed else None, row.learned)
