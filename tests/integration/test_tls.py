"""Over TLS each client holds the server's certificate against the authorities that it knows: no word before that."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis
from celery import Celery
from sqlalchemy.exc import OperationalError

from tests.acceptance.stand import ROOT, surroundings
from tests.certificate import TlsServer
from tests.waiting import until
from worker.client import Client, UnreachableError
from worker.store.database import connect


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    """Run a server as Redis would speak over TLS, up to the handshake."""
    running = TlsServer(tmp_path)
    yield running
    running.close()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[TlsServer]:
    """Run a server as Postgres would speak over TLS, up to the handshake."""
    running = TlsServer(tmp_path, preamble=b"S")
    yield running
    running.close()


def by_client(url: str) -> None:
    """Enqueue as a service does."""
    with pytest.raises(UnreachableError), Client(url, timeout=2) as client:
        client.dispatch("e", "R")


def by_redis(url: str) -> None:
    """Connect as a worker's reader does."""
    with redis.Redis.from_url(url, socket_timeout=2) as made, pytest.raises(redis.ConnectionError):
        made.ping()


def by_celery(url: str) -> None:
    """Connect as a worker, beat or Flower does, with the settings that they read."""
    code = "from worker.app import app; app.connection_for_read().ensure_connection(max_retries=1, timeout=2)"
    env = {**surroundings(), "REDIS_URL": url}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=env, capture_output=True, check=False
    )
    assert done.returncode
    assert b"insecure" not in done.stderr


@pytest.mark.parametrize("call", [by_client, by_redis, by_celery])
def test_redis_that_nobody_vouches_for(server: TlsServer, call: Callable[[str], None]) -> None:
    """With rediss:// a server whose certificate nobody vouches for hears nothing, no password either."""
    call(f"rediss://:hush@localhost:{server.port}/0")
    until(lambda: server.refused or server.heard)
    assert server.heard == []


@pytest.mark.parametrize("call", [by_client, by_redis, by_celery])
def test_redis_that_is_vouched_for(server: TlsServer, call: Callable[[str], None]) -> None:
    """Where the URL names the authority, the server is spoken to."""
    call(f"rediss://:hush@localhost:{server.port}/0?ssl_ca_certs={server.pem}")
    until(lambda: any(b"hush" in said for said in server.heard))


@pytest.mark.parametrize("call", [by_client, by_redis, by_celery])
def test_redis_by_another_name(server: TlsServer, call: Callable[[str], None]) -> None:
    """A certificate that is vouched for, but is another host's, is refused too."""
    call(f"rediss://:hush@127.0.0.2:{server.port}/0?ssl_ca_certs={server.pem}")
    assert server.heard == []


@pytest.mark.parametrize(("asked", "heard"), [("?ssl_cert_reqs=required", False), ("", True)])
def test_a_service_that_speaks_celery(server: TlsServer, asked: str, heard: bool) -> None:
    """Celery alone takes any certificate, unless its URL asks for more: security.md says so."""
    app = Celery("somebody", broker=f"rediss://:hush@localhost:{server.port}/0{asked}")
    with suppress(Exception), app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
    until(lambda: server.refused or server.heard)
    assert any(b"hush" in said for said in server.heard) is heard


def reach(url: str) -> None:
    """Connect as everything here does that uses the database."""
    engine = connect(url)
    with suppress(OperationalError), engine.connect():
        pass
    engine.dispose()


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
def test_postgres_that_nobody_vouches_for(postgres: TlsServer, mode: str) -> None:
    """With sslmode=verify-full a server whose certificate nobody vouches for hears not even the user's name."""
    url = f"postgresql://vcc:hush@localhost:{postgres.port}/vcc?sslmode={mode}"
    bundle = next(
        path
        for path in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem", os.devnull)
        if os.path.exists(path)
    )
    for authorities in ("", "&sslrootcert=system" if mode == "verify-full" else "", f"&sslrootcert={bundle}"):
        reach(url + authorities)
    assert postgres.heard == []


def test_postgres_that_is_vouched_for(postgres: TlsServer) -> None:
    """Where the URL names the authority, the server is spoken to; by another name it is not."""
    for host in ("127.0.0.2", "localhost"):
        assert postgres.heard == []
        reach(
            f"postgresql://vcc:hush@{host}:{postgres.port}/vcc?sslmode=verify-full&sslrootcert={postgres.pem}"
        )
    until(lambda: any(b"user\0vcc" in said for said in postgres.heard))


def test_postgres_that_is_only_asked_to_encrypt(postgres: TlsServer) -> None:
    """With sslmode=require, or prefer, nobody looks at the certificate: security.md says so."""
    reach(f"postgresql://vcc:hush@localhost:{postgres.port}/vcc?sslmode=require")
    until(lambda: any(b"user\0vcc" in said for said in postgres.heard))
    assert psycopg.pq.version() >= 160_000  # from which on sslrootcert=system is known
