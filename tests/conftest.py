"""What every test may ask for: real servers, a clean database, an empty Redis, the simulator.

Each process of pytest-xdist has servers of its own (half a second to start, and only when a test asks for
one), so that a test may kill one without disturbing another's. ``DATABASE_URL`` and ``REDIS_URL`` name servers
to use instead; there only databases made for the tests are touched, in Redis the last numbered ones.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as examples
from psycopg import sql
from sqlalchemy.engine import make_url

from worker import embedded

if TYPE_CHECKING:
    from worker.simulator.run import Background

GIVEN_DATABASE = os.environ.get("DATABASE_URL", "")
GIVEN_REDIS = os.environ.get("REDIS_URL", "")

MEMORY, PLENTY = Path("/dev/shm"), 4 * 2**30  # noqa: S108 - what is made there gets a name by chance
"""A file system in memory, which most Linux machines have, and the bytes that must be free there."""


ELSEWHERE = ("tests/acceptance/", "fuzz", "test_hostile", "test_store_machine")
"""Tests whose lines others go through as well, and which take twice as long while lines are counted."""


# A busy machine is no fault, and a fixture that all examples share is one on purpose.
IMPATIENT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
examples.register_profile("patient", deadline=None, suppress_health_check=IMPATIENT)
examples.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count no lines where that only takes time."""
    for item in items:
        if any(part in item.nodeid for part in ELSEWHERE):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's own settings and servers out of every test."""
    for name in [n for n in os.environ if n.startswith("VCC_") or n in ("DATABASE_URL", "REDIS_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VCC_HOME", str(tmp_path / ".vcc"))
    monkeypatch.setattr("worker.settings.HOME", tmp_path / ".vcc")


@contextmanager
def open_folder(*, fast: bool = False) -> Iterator[Path]:
    """Give a temporary folder that PostgreSQL can enter whatever user it runs as.

    Args:
        fast: in memory where there is plenty; on some machines no program can be run from there.
    """
    plenty = fast and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > PLENTY
    where = MEMORY if plenty else None
    with tempfile.TemporaryDirectory(prefix="vcc-test-", dir=where, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[embedded.Server]:
    """Give the PostgreSQL behind ``database_url``, for tests that kill, restart or freeze it."""
    with open_folder(fast=True) as home, embedded.postgres(home, durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[embedded.Server]:
    """Give the Redis behind ``redis_url``, for tests that kill, restart or freeze it."""
    with open_folder(fast=True) as home, embedded.redis(home, fsync="no") as server:
        yield server


class Databases:
    """Clean databases on one server: copies of one that was migrated once (25 ms each).

    One connection serves all tests: a new one would take half as long as the copy.
    """

    def __init__(self, server_url: str) -> None:
        from worker.store import migrate  # noqa: PLC0415 - so that tests of other rooms run without the store

        self._server_url = server_url
        self._connection: psycopg.Connection | None = None
        self._template = f"vcc_template_{os.getpid()}"
        self._create(self._template, "template1")
        migrate.upgrade(self._url(self._template))

    def fresh(self) -> str:
        """Make a new database, in place of the last one, and return its URL."""
        name = f"vcc_test_{os.getpid()}"
        self._drop(name)
        self._create(name, self._template)
        return self._url(name)

    def drop(self) -> None:
        """Leave nothing behind."""
        self._drop(f"vcc_test_{os.getpid()}")
        self._drop(self._template)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _url(self, database: str) -> str:
        return make_url(self._server_url).set(database=database).render_as_string(hide_password=False)

    def _create(self, name: str, template: str) -> None:
        # FILE_COPY is four times as fast as the default where fsync is off.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def _drop(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        try:
            self._connected().execute(statement)
        except psycopg.OperationalError:  # a test has killed the server meanwhile
            self.close()
            self._connected().execute(statement)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = psycopg.connect(self._server_url, autocommit=True)
        return self._connection


@pytest.fixture(scope="session")
def embedded_databases(postgres_server: embedded.Server) -> Iterator[Databases]:
    """Give the databases on the tests' own PostgreSQL; they go with it."""
    databases = Databases(postgres_server.url)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def given_databases() -> Iterator[Databases]:
    """Give databases on the PostgreSQL that ``DATABASE_URL`` names."""
    databases = Databases(GIVEN_DATABASE)
    yield databases
    databases.drop()


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Give a migrated database that holds nothing yet; on ``postgres_server`` if the test asks for that too."""
    return clean_database(request)


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """Give a Redis that holds nothing yet; on ``redis_server`` if the test asks for that too."""
    return clean_redis(request)


def clean_database(request: pytest.FixtureRequest) -> str:
    """Make a database in place of the last one, also for a fixture that serves more than one test."""
    if GIVEN_DATABASE and "postgres_server" not in request.fixturenames:
        given: Databases = request.getfixturevalue("given_databases")
        return given.fresh()
    _revive(request.getfixturevalue("postgres_server"))
    databases: Databases = request.getfixturevalue("embedded_databases")
    return databases.fresh()


def clean_redis(request: pytest.FixtureRequest) -> str:
    """Empty Redis, also for a fixture that serves more than one test."""
    if GIVEN_REDIS and "redis_server" not in request.fixturenames:
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        url = urlsplit(GIVEN_REDIS)._replace(path=f"/{15 - number}").geturl()
    else:
        url = _revive(request.getfixturevalue("redis_server")).url
    with redis.Redis.from_url(url) as connection:
        connection.flushdb()
    return url


def _revive(server: embedded.Server) -> embedded.Server:
    """Bring back a server that an earlier test has left dead or frozen."""
    server.thaw()
    if server.poll() is not None:
        server.restart()
    return server


@pytest.fixture
def simulator() -> Iterator["Background"]:
    """Give the API's stand-in, listening on a port of its own: a new book and no faults."""
    from worker.simulator.run import Background  # noqa: PLC0415 - so that tests of other rooms run without it

    with Background() as simulator:
        yield simulator
