"""Migrations: the tables as the code knows them, there and back, by several at once."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError
from sqlalchemy.types import TypeEngine

from tests.factories import Store, dispatch, opened, together
from worker.domain.lifecycle import State
from worker.settings import SettingsError
from worker.store import database, migrate
from worker.store.tables import metadata

ROOT = Path(migrate.__file__).parents[2]


def downgrade(engine: Engine) -> None:
    """Take every migration back."""
    config = migrate._config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")


def test_states_are_those_of_the_database(store: Store) -> None:
    """Python's enum and Postgres's have the same words in the same order."""
    found = store.all("select unnest(enum_range(null::interaction_state))::text")
    assert [state for (state,) in found] == list(State)


def test_tables_are_those_of_the_database(store: Store) -> None:
    """Every table has the columns that the code knows, of the same type, and no others."""
    found = inspect(store.engine)
    apart = {"alembic_version", "inbox"}  # the migrations' own, and one that is read by plain SQL
    assert set(found.get_table_names()) - apart == set(metadata.tables) - apart
    for table in metadata.sorted_tables:
        there = {c["name"]: (_type(c["type"]), c["nullable"]) for c in found.get_columns(table.name)}
        known = {c.name: (_type(c.type), bool(c.nullable)) for c in table.columns}
        if table.name == "interactions":
            assert there.pop("rank")[0] == known.pop("rank")[0]  # made by the database
        assert there == known, table.name
        keys = found.get_pk_constraint(table.name)["constrained_columns"]
        assert keys == [c.name for c in table.primary_key]


def _type(kind: TypeEngine[Any]) -> str:
    return kind.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call] # as SQLAlchemy has it


def test_there_and_back(store: Store) -> None:
    """All migrations can be taken back, leaving nothing, and done again."""
    downgrade(store.engine)
    assert inspect(store.engine).get_table_names() == ["alembic_version"]
    assert store.one("select count(*) from pg_type where typname = 'interaction_state'") == 0
    assert migrate.pending(store.engine)[0] == "0001"
    migrate.upgrade(store.engine.url.render_as_string(hide_password=False))
    assert migrate.pending(store.engine) == []
    assert store.verdicts(dispatch()) == ["opened"]


def test_again_changes_nothing(store: Store, database_url: str) -> None:
    """Migrating a database that is up to date is no work."""
    store.record(dispatch())
    migrate.upgrade(database_url)
    assert store.counts() == {"pending": 1}


def test_several_at_once(store: Store, database_url: str) -> None:
    """Of several migrations at once one does the work, the others wait for it and find nothing to do."""
    downgrade(store.engine)
    code = "import sys; from worker.store import migrate; migrate.upgrade(sys.argv[1])"
    running = [subprocess.Popen([sys.executable, "-c", code, database_url], cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert migrate.pending(store.engine) == []


def test_waits_as_long_as_the_other_takes(store: Store, database_url: str) -> None:
    """The wait for another migration is longer than the one that is allowed for a table's lock."""
    downgrade(store.engine)

    def slow() -> float:
        with store.engine.connect() as conn:
            conn.exec_driver_sql(f"select pg_advisory_lock({0x5643_4301})")
            conn.exec_driver_sql("select pg_sleep(5.5)")
            freed = time.monotonic()
            conn.exec_driver_sql(f"select pg_advisory_unlock({0x5643_4301})")
        return freed

    def waiting() -> float:
        store.one("select pg_sleep(0.3)")
        migrate.upgrade(database_url)
        return time.monotonic()

    freed, done = together(slow, waiting)
    assert done > freed
    assert migrate.pending(store.engine) == []


def test_only_in_a_checkout(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the migrations beside the package it is told where to run."""
    monkeypatch.setattr(migrate, "__file__", "/nowhere/worker/store/migrate.py")
    with pytest.raises(SettingsError, match="run this in a checkout"):
        migrate.upgrade(database_url)


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [("no url", "DATABASE_URL is no database URL"), ("mysql://u@h/d", "DATABASE_URL names 'mysql'")],
)
def test_url_that_is_none(url: str, reason: str) -> None:
    """What is no PostgreSQL URL is refused with the remedy."""
    with pytest.raises(SettingsError, match=reason):
        database.connect(url)


def test_error_holds_no_customers_words(store: Store) -> None:
    """What a database error is called in a log names its kind and its code, no values; nor does its statement."""
    with pytest.raises(Exception, match="UntranslatableCharacter") as caught:
        store.run("select %(said)s::jsonb", said='"Jane Doe \\u0000"')
    assert database.told(caught.value) == "DataError 22P05"
    assert "Jane Doe" not in str(caught.value).split("[SQL")[1]
    assert not database.is_transient(caught.value)
    assert database.told(ValueError("Jane Doe")) == "ValueError"


def test_transient_or_not(store: Store) -> None:
    """A database that can't be reached may be there a moment later; a wrong statement stays wrong."""
    with opened("postgresql://u:p@127.0.0.1:1/none") as engine, pytest.raises(OperationalError) as away:
        engine.connect()
    assert database.is_transient(away.value)
    assert not database.is_transient(ValueError())
    with pytest.raises(Exception, match="division") as wrong:
        store.run("select 1 / 0")
    assert not database.is_transient(wrong.value)


def test_patience() -> None:
    """Work is done again while the database is away, and its error is told when patience is over."""
    away = OperationalError("select 1", {}, Exception("gone"))
    left = [away, away]

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    assert database.patiently(work) == "done"

    def never() -> str:
        raise away

    with pytest.raises(OperationalError):
        database.patiently(never, seconds=0.0)
