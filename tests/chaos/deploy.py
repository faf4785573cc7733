"""A deploy under load: the migration first, then node after node; the next time all of it back again."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tests.chaos.system import System
from tests.waiting import until
from worker.store.database import connect

ROOT = Path(__file__).resolve().parents[2]
STEP = 2.0
"""Seconds between two nodes."""


@contextmanager
def play(system: System, _: random.Random) -> Iterator[None]:
    """Bring the next migration, or take it back, then restart the nodes one after the other."""
    engine = connect(system.postgres.url)
    try:
        back = bool(system.rows("select from pg_class where relname = 'next_table'"))
        until(lambda: _migrated(engine, back=back), seconds=60)
    finally:
        engine.dispose()
    for node in system.nodes.values():
        node.worker.tell(signal.SIGTERM)
        time.sleep(STEP)
    yield


def _migrated(engine: Engine, *, back: bool) -> bool:
    """Migrate; a migration that would make the workers wait gives up, and is run again."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option(
        "version_locations", f"{ROOT / 'migrations/versions'}:{ROOT / 'tests/chaos/versions'}"
    )
    try:
        with engine.connect() as conn:
            config.attributes["connection"] = conn
            if back:
                command.downgrade(config, "-1")
            else:
                command.upgrade(config, "head")
    except DBAPIError:
        return False
    return True
