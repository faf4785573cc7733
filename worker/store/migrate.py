"""Bring a database to the newest migration, and say how far it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from worker.settings import SettingsError
from worker.store.database import connect, pooled


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database at the URL; of several at once one does it and the others wait."""
    engine = connect(url)
    try:
        with engine.connect() as connection:
            if pooled(connection):
                raise SettingsError(
                    "DATABASE_URL leads through a pooler: migrations need Postgres itself, so set it to that for this"
                    " command"
                )
            connection.rollback()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def pending(engine: Engine) -> list[str]:
    """The revisions that the database still lacks, oldest first; empty when it is up to date."""
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(_config())
    missing = [r.revision for r in script.iterate_revisions("head", current or "base")]
    return [r for r in reversed(missing) if r != current]


def _config() -> Config:
    root = Path(__file__).resolve().parents[2]
    if not (root / "alembic.ini").exists():
        raise SettingsError("migrations/ is not beside the package: run this in a checkout of the project")
    return Config(root / "alembic.ini")
