"""What time alone changes: holds that expire, rows tried for too long, interactions assumed ended, lost calls.

Each takes a bounded batch and says how many it changed, so that a sweep goes on until none is full. Killed in
between, the next sweep goes on; any number of sweeps may run at once, rows that another has locked are skipped.
"""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, Engine

from worker.domain import lifecycle as life
from worker.domain.lifecycle import Interaction, State
from worker.store import rows, tallies

BATCH = 1000

_HELD = "state = 'awaiting_dispatch' and due_at <= now()"
_SPENT = """state in ('pending', 'releasing') and due_at <= now()
            and first_sent_at <= now() - make_interval(secs => %(give_up_after)s)"""
_PARKED = "state = 'pending' and due_at = 'infinity'"
_UNHEARD = "outcome is null and started_at <= now() - make_interval(secs => %(lease)s)"
_UNRELEASED = (
    "state = 'dispatched' and dispatched_at <= now() - make_interval(secs => %(assume_ended_after)s)"
)

_LOOK = f"""select exists (select from interactions where {_HELD}) as "orphaned",
    exists (select from interactions where {_SPENT}) as "given up",
    exists (select from interactions where {_PARKED}) as "let go",
    exists (select from invocations where {_UNHEARD}) as "lost calls",
    exists (select from interactions where {_UNRELEASED}) as "assumed ended",
    {tallies.READY} as "added up"
"""


def look(
    conn: Connection, *, give_up_after: float, lease: float, assume_ended_after: float | None
) -> Mapping[str, bool]:
    """Which of the steps have something to do: one statement, since on most ticks none has."""
    params = {
        "give_up_after": give_up_after,
        "lease": lease,
        "assume_ended_after": assume_ended_after,
    }
    return dict(conn.exec_driver_sql(_LOOK, params).mappings().one())


def expire_holds(engine: Engine) -> int:
    """End the releases whose dispatch did not come within the grace period."""
    return _change(engine, _HELD, {}, life.expire)


def give_up_spent(engine: Engine, after: float) -> int:
    """Give up rows first sent more than so many seconds ago: the API may have forgotten their requestid."""
    return _change(
        engine,
        _SPENT,
        {"give_up_after": after},
        lambda row: life.give_up(row, "given up: no certain answer in time"),
    )


def assume_ended(engine: Engine, after: float) -> int:
    """End interactions dispatched more than so many seconds ago and never released."""
    return _change(
        engine,
        _UNRELEASED,
        {"assume_ended_after": after},
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
        rows.start_waiting(conn, rows.endings(found))
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
            f"""update invocations set outcome = 'lost', error = 'the worker was not heard of again'
            where id in (select id from invocations where {_UNHEARD} limit {BATCH} for update skip locked)""",
            {"lease": after},
        ).rowcount
