"""What a command works with: the settings, the database, and the bell of the workers."""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worker.ops.printing import say

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.settings import Settings


def settings() -> "Settings":
    """Read the settings, and see that the URLs are such.

    Raises:
        SettingsError: one is wrong.
    """
    from worker.settings import SettingsError, load

    current = load()
    for name, url, pattern in (
        ("DATABASE_URL", current.database_url, "postgresql://user:password@host:port/name"),
        ("REDIS_URL", current.redis_url, "redis://:password@host:port/0"),
    ):
        if url is not None and _scheme(url.get_secret_value()) not in _SCHEMES[name]:
            raise SettingsError(f"{name}: is no such URL; write it like {pattern}")
    return current


_SCHEMES = {
    "DATABASE_URL": ("postgresql", "postgres", "postgresql+psycopg"),
    "REDIS_URL": ("redis", "rediss", "unix", "sentinel"),
}


def _scheme(url: str) -> str:
    """Tell a URL's scheme; empty where what follows makes no sense."""
    if url.startswith("sentinel://"):  # read already: where there are several hosts, there is no one port
        return "sentinel"
    try:
        parts = urlsplit(url)
        return parts.scheme if parts.port != 0 else ""
    except ValueError:
        return ""


@contextmanager
def opened() -> Iterator[tuple["Settings", "Engine"]]:
    """Open the database, and find out at once whether it can be used.

    Raises:
        SettingsError: DATABASE_URL is missing or wrong.
        sqlalchemy.exc.DBAPIError: it can't be reached, or is not migrated.
    """
    from worker.store import gate
    from worker.store.database import connect

    current = settings()
    engine = connect(current.database())
    try:
        with engine.connect() as conn:
            # recording goes on trying for a while, in which an operator would look at nothing
            gate.read(conn)
        yield current, engine
    finally:
        engine.dispose()


class Bell:
    """Asks the workers for a delivery; that Redis is away stops nobody, for the tick asks too."""

    def __init__(self) -> None:
        self._trouble = ""

    def __call__(self) -> None:
        """Ring, unless it was found broken: an import must not wait for it again and again."""
        if not self._trouble:
            self._trouble = self._ring()

    def tell(self) -> None:
        """Say on stderr why nobody heard it, if nobody did."""
        if self._trouble:
            say(f"warning: {self._trouble}")

    def _ring(self) -> str:
        from redis.exceptions import RedisError

        from worker import app, tasks
        from worker.settings import SettingsError

        try:
            app.redis_client().ping()
            tasks.wake()
        except SettingsError as error:
            return f"recorded; the workers' next tick sends it ({error})"
        except RedisError:
            return "recorded; Redis can't be reached, so delivery starts when it is back"
        return ""
