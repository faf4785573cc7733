"""Sweep: wake what is due or stranded, expire what time has overtaken, add up what calls came to.

Any number of sweeps may run at once: each step skips what another has locked.
"""

from collections.abc import Callable, Iterator, Mapping

from sqlalchemy import Engine

from worker.settings import Settings
from worker.store import expiry, tallies
from worker.store.claim import oldest_due
from worker.store.database import single


def sweep(engine: Engine, settings: Settings, wake: Callable[[], None]) -> dict[str, int]:
    """Do all that time asks for; returns how many rows each step changed."""
    wanted = _look(engine, settings)
    changed = {name: _until_short(step) if wanted[name] else 0 for name, step in _steps(engine, settings)}
    with engine.connect() as conn, single(conn):
        due = oldest_due(conn) is not None
    if due:
        wake()
    if wanted["added up"]:  # last: nobody's interaction waits for it
        tallies.roll(engine, settings.lease)
    return changed


def _look(engine: Engine, settings: Settings) -> Mapping[str, bool]:
    with engine.connect() as conn, single(conn):
        return expiry.look(
            conn,
            give_up_after=settings.give_up_after,
            lease=settings.lease,
            assume_ended_after=settings.assume_ended_after,
        )


def _steps(engine: Engine, settings: Settings) -> Iterator[tuple[str, Callable[[], int]]]:
    yield "orphaned", lambda: expiry.expire_holds(engine)
    yield "given up", lambda: expiry.give_up_spent(engine, settings.give_up_after)
    yield "let go", lambda: expiry.let_go_parked(engine)
    yield "lost calls", lambda: expiry.lose_calls(engine, settings.lease)
    ended_after = settings.assume_ended_after
    if ended_after is not None:
        yield "assumed ended", lambda: expiry.assume_ended(engine, ended_after)


def _until_short(step: Callable[[], int]) -> int:
    total = done = step()
    while done >= expiry.BATCH:
        done = step()
        total += done
    return total
