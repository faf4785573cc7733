"""What time alone changes: holds that expire, rows tried for too long, interactions assumed ended, lost calls.

Each takes a bounded batch and says how many it changed, so that a sweep goes on until none is full. Killed in
between, the next sweep goes on; any number of sweeps may run at once, rows that another has locked are skipped.
"""

from collections.abc import Callable

from sqlalchemy import Engine

from worker.domain import lifecycle as life
from worker.domain.lifecycle import FINAL, Interaction, State
from worker.store import rows

BATCH = 1000


def expire_holds(engine: Engine) -> int:
    """End the releases whose dispatch did not come within the grace period."""
    return _change(engine, "state = 'awaiting_dispatch' and due_at <= now()", {}, life.expire)


def give_up_spent(engine: Engine, after: float) -> int:
    """Give up rows first sent more than so many seconds ago: the API may have forgotten their requestid."""
    return _change(
        engine,
        """state in ('pending', 'releasing') and due_at <= now()
            and first_sent_at <= now() - make_interval(secs => %(after)s)""",
        {"after": after},
        lambda row: life.give_up(row, "given up: no certain answer in time"),
    )


def assume_ended(engine: Engine, after: float) -> int:
    """End interactions dispatched more than so many seconds ago and never released."""
    return _change(
        engine,
        "state = 'dispatched' and dispatched_at <= now() - make_interval(secs => %(after)s)",
        {"after": after},
        lambda row: life.move(row, State.ENDED, "assumed ended"),
    )


def _change(
    engine: Engine, where: str, params: dict[str, float], change: Callable[[Interaction], None]
) -> int:
    with engine.begin() as conn:
        found = rows.lock(
            conn,
            f"select id from interactions where {where} limit {BATCH} for update skip locked",
            params,
        )
        for row in found:
            change(row)
        rows.update(conn, found)
        rows.start_waiting(conn, [row for row in found if row.state in FINAL])
        return len(found)


def let_go_parked(engine: Engine) -> int:
    """Let rows go that wait for a route which is held no more: they were parked while it was let go."""
    with engine.begin() as conn:
        return conn.exec_driver_sql(
            f"""with recursive parked as (
                (select route from interactions where state = 'pending' and due_at = 'infinity'
                 order by route limit 1)
                union all
                select (select i.route from interactions i where i.state = 'pending' and i.due_at = 'infinity'
                        and i.route > parked.route order by i.route limit 1)
                from parked where parked.route is not null
            )
            update interactions set due_at = now(), updated_at = clock_timestamp()
            where id = any (array(
                select i.id from parked p join interactions i on i.route = p.route
                where i.state = 'pending' and i.due_at = 'infinity'
                  and not exists (select from routes r where r.route = p.route and r.held_at is not null)
                limit {BATCH} for update of i skip locked))"""
        ).rowcount


def lose_calls(engine: Engine, after: float) -> int:
    """Call those invocations lost whose worker was not heard of again; a late settle still counts."""
    with engine.begin() as conn:
        return conn.exec_driver_sql(
            """update invocations set outcome = 'lost', error = 'the worker was not heard of again'
            where id in (select id from invocations where outcome is null
                and started_at <= now() - make_interval(secs => %(after)s) limit 1000 for update skip locked)""",
            {"after": after},
        ).rowcount
