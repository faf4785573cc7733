"""The faults: each a context in which something is broken, and mended at its end."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import redis

from tests.chaos import deploy
from tests.chaos.system import CELERY, TIMEOUT, Node, Service, System
from worker.embedded import Server

SHORT, LONG = 4.0, 15.0
"""Seconds that a fault lasts: two calls; more than two leases."""

KEEPALIVE = 20.0
"""Seconds after which a worker's kernel gives up a connection to Postgres that is half-open."""

HOUR = 3600

Play = Callable[[System, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: what it is called on the command line.
        play: breaks something in a context.
        seconds: how long that lasts.
        serves: it strikes one node only, so that canaries sent meanwhile must get through all the same.
    """

    name: str
    play: Play
    seconds: float = SHORT
    serves: bool = False


def _node(system: System, rng: random.Random) -> Node:
    return rng.choice(list(system.nodes.values()))


# --- processes ----------------------------------------------------------------------------------


def _worker(node: Node) -> Service:
    return node.worker


def _beat(node: Node) -> Service:
    return node.beat


def _signalled(number: signal.Signals, service: Callable[[Node], Service]) -> Play:
    @contextmanager
    def play(system: System, rng: random.Random) -> Iterator[None]:
        service(_node(system, rng)).tell(number)
        yield

    return play


@contextmanager
def _machine_down(system: System, rng: random.Random) -> Iterator[None]:
    node = _node(system, rng)
    for service in (node.worker, node.beat):
        service.tell_all(signal.SIGKILL)
    yield


def _children(number: signal.Signals) -> Play:
    @contextmanager
    def play(system: System, _: random.Random) -> Iterator[None]:
        for pid in system.nodes["two"].worker.children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(0.3)
        yield

    return play


def _frozen(service: Callable[[Node], Service]) -> Play:
    @contextmanager
    def play(system: System, rng: random.Random) -> Iterator[None]:
        frozen = service(_node(system, rng))
        frozen.tell_all(signal.SIGSTOP)
        try:
            yield
        finally:
            frozen.tell_all(signal.SIGCONT)

    return play


@contextmanager
def _more_beats(system: System, _: random.Random) -> Iterator[None]:
    beats = [system.add(f"beat-more-{n}", (*CELERY, "beat"), system.env()) for n in range(2)]
    try:
        yield
    finally:
        for beat in beats:
            system.remove(beat)


def _clock(seconds: int) -> Play:
    @contextmanager
    def play(system: System, rng: random.Random) -> Iterator[None]:
        node = _node(system, rng)
        commands = {service: service.command for service in (node.worker, node.beat)}
        for service, (_, *module) in commands.items():
            service.command = ("-m", "tests.chaos.skewed", str(seconds), *module)
            service.tell(signal.SIGTERM)
        try:
            yield
        finally:
            for service, command in commands.items():
                service.command = command
                service.tell(signal.SIGTERM)

    return play


# --- servers --------------------------------------------------------------------------------------


def _server_frozen(server: Callable[[System], Server]) -> Play:
    @contextmanager
    def play(system: System, _: random.Random) -> Iterator[None]:
        server(system).freeze()
        try:
            yield
        finally:
            server(system).thaw()

    return play


# --- Redis --------------------------------------------------------------------------------------


def _redis_killed(seconds: float, *, with_data: bool) -> Play:
    @contextmanager
    def play(system: System, _: random.Random) -> Iterator[None]:
        system.redis.kill()
        if with_data:
            shutil.rmtree(system.folder / "home" / "redis")
            (system.folder / "home" / "redis").mkdir()
        time.sleep(seconds)
        system.redis.restart()
        yield

    return play


@contextmanager
def _redis_restarted(system: System, _: random.Random) -> Iterator[None]:
    system.redis.restart()
    yield


@contextmanager
def _redis_full(system: System, _: random.Random) -> Iterator[None]:
    with redis.Redis.from_url(system.redis.url) as admin:
        admin.config_set("maxmemory", 1)
        try:
            yield
        finally:
            admin.config_set("maxmemory", 0)


# --- Postgres -----------------------------------------------------------------------------------


@contextmanager
def _postgres_killed(system: System, _: random.Random) -> Iterator[None]:
    system.postgres.kill()
    time.sleep(SHORT)
    system.postgres.restart()
    yield


@contextmanager
def _postgres_restarted(system: System, _: random.Random) -> Iterator[None]:
    system.postgres.restart()
    yield


@contextmanager
def _backend_killed(system: System, _: random.Random) -> Iterator[None]:
    """One of Postgres's own processes: it ends all the others, and recovers as after a crash."""
    for (pid,) in system.rows("select pid from pg_stat_activity where application_name = 'vcc' limit 1"):
        os.kill(pid, signal.SIGKILL)
    yield


DROP = """select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'vcc' and pid <> pg_backend_pid()"""


@contextmanager
def _connections_dropped(system: System, _: random.Random) -> Iterator[None]:
    for _ in range(40):
        system.rows(DROP + " order by random() limit 1")
        time.sleep(SHORT / 40)
    yield


@contextmanager
def _out_of_connections(system: System, _: random.Random) -> Iterator[None]:
    with system.connect() as admin:
        held: list[psycopg.Connection[Any]] = []
        try:
            for full in (False, True):
                if full:
                    admin.execute(DROP)  # so that the workers have to ask for new ones
                with suppress(psycopg.OperationalError):
                    while True:
                        held.append(psycopg.connect(system.postgres.url, connect_timeout=5))
            yield
        finally:
            for conn in held:
                conn.close()


# --- the API ------------------------------------------------------------------------------------


def _api(**faults: Any) -> Play:
    @contextmanager
    def play(system: System, _: random.Random) -> Iterator[None]:
        system.faults(**faults)
        try:
            yield
        finally:
            system.clear_faults()

    return play


# --- the network --------------------------------------------------------------------------------


def _net(server: str, how: str) -> Play:
    @contextmanager
    def play(system: System, rng: random.Random) -> Iterator[None]:
        proxy = _node(system, rng).proxies[server]
        if how == "cut":
            proxy.cut()
        elif how == "slow":
            proxy.delay(0.3)
        else:
            proxy.half_open()
        try:
            yield
        finally:
            # Postgres's own keepalives find a half-open connection, which a proxy in user space can't play dead for:
            # so it ends them, when those would have
            proxy.mend(ending=server == "postgres")

    return play


def _catalogue() -> Iterator[Fault]:
    yield Fault("worker-killed", _signalled(signal.SIGKILL, _worker), serves=True)
    yield Fault("worker-terminated", _signalled(signal.SIGTERM, _worker), serves=True)
    yield Fault("worker-frozen", _frozen(_worker), LONG, serves=True)
    yield Fault("child-killed", _children(signal.SIGKILL), serves=True)
    yield Fault("child-terminated", _children(signal.SIGTERM), serves=True)
    yield Fault("beat-killed", _signalled(signal.SIGKILL, _beat), serves=True)
    yield Fault("beat-terminated", _signalled(signal.SIGTERM, _beat), serves=True)
    yield Fault("beat-frozen", _frozen(_beat), LONG, serves=True)
    yield Fault("machine-down", _machine_down, serves=True)
    yield Fault("more-beats", _more_beats, 2 * SHORT, serves=True)
    yield Fault("clock-ahead", _clock(HOUR), LONG, serves=True)
    yield Fault("clock-behind", _clock(-HOUR), LONG, serves=True)
    yield Fault("deploy", deploy.play, serves=True)
    yield Fault("redis-killed", _redis_killed(SHORT, with_data=False), 0)
    yield Fault("redis-lost", _redis_killed(SHORT, with_data=True), 0)
    yield Fault("redis-restarted", _redis_restarted, 0)
    yield Fault("redis-frozen", _server_frozen(lambda system: system.redis), LONG)
    yield Fault("redis-full", _redis_full, 2 * SHORT)
    yield Fault("postgres-killed", _postgres_killed, 0)
    yield Fault("postgres-restarted", _postgres_restarted, 0)
    yield Fault("postgres-frozen", _server_frozen(lambda system: system.postgres), LONG)
    yield Fault("backend-killed", _backend_killed)
    yield Fault("connections-dropped", _connections_dropped, 0)
    yield Fault("out-of-connections", _out_of_connections, 2 * SHORT)
    yield Fault("throttled", _api(throttle={"retry_after": 2}))
    yield Fault("throttled-bare", _api(throttle={}))
    yield Fault("error-500", _api(status={"status": 500}))
    yield Fault("html-503", _api(html503={}))
    yield Fault("html-200", _api(html200={}))
    yield Fault("api-silent", _api(delay={"by": HOUR}), 3 * SHORT)
    yield Fault("api-drips", _api(drip={"over": 3 * TIMEOUT}), 3 * SHORT)
    yield Fault("cut-after", _api(cut_after={"probability": 0.5}), 2 * SHORT)
    yield Fault("cut-before", _api(cut_before={}))
    yield Fault("answers-late", _api(delay={"by": 5 * TIMEOUT}), LONG)
    yield Fault("processed-late", _api(late={"by": 5 * TIMEOUT}), LONG)
    yield Fault("tokens-revoked", _api(revoke={"probability": 0.5}), 2 * SHORT)
    yield Fault("token-down", _api(html503={"at": "token"}, revoke={"probability": 0.5}), 2 * SHORT)
    yield Fault("json-broken", _api(garbled={"at": "both"}))
    yield Fault("redirected", _api(redirect={"at": "both"}))
    for server in ("postgres", "redis", "api"):
        yield Fault(f"{server}-cut", _net(server, "cut"), 2 * SHORT, serves=True)
        yield Fault(f"{server}-slow", _net(server, "slow"), 2 * SHORT, serves=True)
        yield Fault(f"{server}-half-open", _net(server, "half-open"), KEEPALIVE, serves=True)


FAULTS = {fault.name: fault for fault in _catalogue()}
