"""Connections: one engine a process, and what a failing database means."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import psycopg
import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    OperationalError,
)
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from worker.settings import SettingsError

T = TypeVar("T")

Where = Engine | Connection
"""Where to write: a process's engine, or one connection whose end must also be the end of the writing."""

PATIENCE = 45.0
"""Seconds that record and settle go on trying while Postgres is away."""

_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "timezone=UTC",
        "statement_timeout=60s",
        # an idle transaction would keep vacuum from the dead versions of rows
        "idle_in_transaction_session_timeout=60s",
        # everything hot is looked up by index, whatever the statistics of a table that was empty a minute ago say
        "enable_seqscan=off",
        # and plans whose cost it then overrates are not worth compiling
        "jit=off",
    )
)

_TRANSIENT = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300"}


def connect(url: str, *, pool: int = 5) -> Engine:
    """Make the engine for a ``postgresql://`` URL; nothing is connected yet.

    Args:
        url: as in ``DATABASE_URL``.
        pool: connections that are kept.

    Raises:
        SettingsError: the URL can't be read.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingsError(
            "DATABASE_URL is no database URL: write postgresql://user:password@host/name"
        ) from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise SettingsError(f"DATABASE_URL names {parsed.drivername!r}: this project runs on postgresql://")
    engine = sqlalchemy.create_engine(  # by its full name, which is the one that tracing takes the place of
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool,
        max_overflow=10,
        pool_timeout=30,
        json_deserializer=msgspec.json.decode,
        hide_parameters=True,  # an error's text is logged: customers' words must not be in it
        connect_args={
            "connect_timeout": 5,
            "application_name": "vcc",
            # A prepared statement keeps its plan: one made for an empty table was seen to take 27 s a batch, where
            # a fresh one takes 0.05 s. It is also what a pooler in front of Postgres needs.
            "prepare_threshold": None,
            "options": _OPTIONS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,  # milliseconds; it also bounds what the three above make of it
        },
    )
    event.listen(engine, "do_connect", lambda _d, _r, _args, given: Line.connect(**given))
    return engine


class Line(psycopg.Connection[Any]):
    """A connection that can be kept behind a pooler, which lends one of Postgres's for a transaction at a time.

    Attributes:
        kept: each transaction begins as the last one ends, so that there is no moment at which to take it away.
    """

    kept = False

    def commit(self) -> None:
        """Commit."""
        self.execute("commit and chain", prepare=False) if self.kept else super().commit()

    def rollback(self) -> None:
        """Roll back."""
        self.execute("rollback and chain", prepare=False) if self.kept else super().rollback()


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed a moment later: the database is away, starting, or broke a deadlock."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # no answer of the server: the connection broke, or none was had
        return isinstance(error, OperationalError | InterfaceError)
    return error.connection_invalidated or state in _TRANSIENT


def is_about_values(error: DBAPIError) -> bool:
    """Whether the database refuses what was to be written, rather than being unable to write anything just now."""
    state = getattr(error.orig, "sqlstate", None)
    return isinstance(error, DataError) if state is None else state[:2] in ("22", "23") or state == "54000"


def told(error: BaseException) -> str:
    """Name a database error for a log: its kind and SQLSTATE, never its text, which may quote a row."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return f"{type(error).__name__} {state}" if state else type(error).__name__


@contextmanager
def transaction(where: Where) -> Iterator[Connection]:
    """Open a transaction, on a connection of the engine's or on this very one."""
    if isinstance(where, Connection):
        driver(where)
        with where.begin():
            yield where
    else:
        with where.begin() as conn:
            yield conn


def driver(conn: Connection) -> Line:
    """Psycopg's connection behind SQLAlchemy's.

    Raises:
        InvalidRequestError: it broke. SQLAlchemy would connect again and go on, without what the old one held.
    """
    if conn.invalidated:
        raise InvalidRequestError("this connection broke, and what it held is given up")
    found: Line = conn.connection.driver_connection  # type: ignore[assignment]
    return found


def pooled(conn: Connection) -> bool:
    """Whether a pooler stands between: it makes up the process id that it gives out with a connection."""
    return bool(conn.exec_driver_sql("select pg_backend_pid()").scalar_one() != driver(conn).info.backend_pid)


@contextmanager
def single(conn: Connection) -> Iterator[None]:
    """Let each statement be a transaction of its own, without round trips for its beginning and its end."""
    if driver(conn).kept:
        with conn.begin():
            yield
        return
    driver(conn).autocommit = True
    try:
        yield
        conn.commit()  # nothing is sent: SQLAlchemy only has to know
    finally:
        if not conn.invalidated:
            conn.rollback()
            driver(conn).autocommit = False


def patience(where: Where, seconds: float = PATIENCE) -> float:
    """How long to try again: not at all on one connection, for the next try would be made on another."""
    return 0 if isinstance(where, Connection) else seconds


def patiently(work: Callable[[], T], *, seconds: float = PATIENCE) -> T:
    """Do the work, again and again while the database is away; the last error is raised as it is."""
    retrying: Retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(seconds),
        reraise=True,
    )
    return retrying(work)


def as_json(rows: Any) -> str:
    """Rows for ``jsonb_to_recordset``: far cheaper for psycopg to pass on than arrays of text."""
    return msgspec.json.encode(rows).decode()
