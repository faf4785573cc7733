"""How migrations run: one at a time, and giving up rather than making a live table wait."""

import time

from alembic import context

from worker import settings
from worker.store.database import connect
from worker.store.tables import metadata

LOCK = 0x5643_4301  # any number, but always the same: of several migrations at once one runs, the others wait


def run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
        return
    engine = connect(settings.load().database())
    with engine.connect() as own:
        migrate(own)
    engine.dispose()


def migrate(connection) -> None:
    connection.exec_driver_sql("set lock_timeout = '5s'; set statement_timeout = 0")
    # asked again and again: a statement that waits would hold a snapshot, and an index that the other one builds
    # concurrently waits for every snapshot
    while not connection.exec_driver_sql(f"select pg_try_advisory_lock({LOCK})").scalar_one():
        connection.commit()
        time.sleep(0.1)
    connection.commit()
    try:
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.exec_driver_sql(f"select pg_advisory_unlock({LOCK})")
        connection.commit()


run()
