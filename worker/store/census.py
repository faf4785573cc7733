"""The census: every interaction counted, which reads the whole table.

It is the one thing that does, and takes seconds where there are millions: never while somebody waits for a page.
"""

from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from sqlalchemy import Connection

PATIENCE = "10min"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are.

    Attributes:
        at: when.
        states: interactions by state and lane; those that are nought are left out.
        due: releases, live and backlog dispatches that are due: ``release``, ``live``, ``backlog``.
        in_flight: interactions that a call carries at this moment.
        leaks: dispatched for so long without a release that it looks forgotten.
        rejections: jobs that were rejected, and are kept.
        failed_lately: interactions that were given up within a quarter of an hour, and
        rejected_lately: jobs that were rejected within one: what goes meanwhile does not hide what comes.
        seconds: that counting took.
    """

    at: datetime
    states: dict[tuple[str, str], int]
    due: dict[str, int]
    in_flight: int
    leaks: int
    rejections: int
    failed_lately: int
    rejected_lately: int
    seconds: float


_COUNT = """
select state::text, lane, rank, count(*) as many,
    count(*) filter (where state in ('pending', 'releasing') and due_at <= now()) as due,
    count(*) filter (where state in ('pending', 'releasing') and call is not null and due_at > now()) as flying,
    count(*) filter (where state = 'dispatched'
        and dispatched_at <= now() - make_interval(secs => %(leak_after)s)) as leaks,
    count(*) filter (where state in ('failed', 'release_failed')
        and updated_at > now() - interval '15 minutes') as failed_lately
from interactions group by state, lane, rank
"""
_REJECTED = """
select now(), count(*), count(*) filter (where at > now() - interval '15 minutes') from rejections
"""


def take(conn: Connection, leak_after: float) -> Counts:
    """Count everything once, in one transaction.

    Args:
        conn: in a transaction of its own, of anybody who may look.
        leak_after: seconds since the dispatch after which an interaction without a release is a leak.
    """
    started = monotonic()
    for setting in (
        "enable_seqscan = on",  # off everywhere else
        "max_parallel_workers_per_gather = 0",  # it is in nobody's way
        f"statement_timeout = '{PATIENCE}'",
    ):
        conn.exec_driver_sql(f"set local {setting}")
    found = conn.exec_driver_sql(_COUNT, {"leak_after": leak_after}).all()
    at, rejections, rejected = conn.exec_driver_sql(_REJECTED).one()
    due = dict.fromkeys(("release", "live", "backlog"), 0)
    states: dict[tuple[str, str], int] = {}
    for row in found:
        states[row.state, row.lane] = states.get((row.state, row.lane), 0) + row.many
        due[tuple(due)[row.rank]] += row.due
    return Counts(
        at=at,
        states=states,
        due=due,
        in_flight=sum(row.flying for row in found),
        leaks=sum(row.leaks for row in found),
        rejections=rejections,
        rejected_lately=rejected,
        failed_lately=sum(row.failed_lately for row in found),
        seconds=monotonic() - started,
    )
