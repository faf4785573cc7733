"""The system under test: servers of its own, two nodes of a worker and a beat each, the API's stand-in."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from tests.proxy import Proxy
from tests.waiting import until
from worker import embedded, guard
from worker.server import free_port
from worker.store import migrate

TIMEOUT = 2
"""``VCC_TIMEOUT`` in seconds: a lease is three times that."""

SUPERVISED = 1.0
"""Seconds after which a supervisor starts again what has ended."""

CELERY = ("-m", "celery", "-A", "worker.app")
POOLS = {"one": "threads", "two": "prefork"}


class Service:
    """A process that is started again whenever it ends."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.name = name
        self.command = command
        self.env = env
        self._log = log
        self._ended: float | None = None
        self.held = False
        self.started: list[int] = []
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *self.command],
                env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.started.append(process.pid)
        return process

    def supervise(self) -> None:
        """Start it again if it ended a while ago."""
        if self.held or self.process.poll() is None:
            self._ended = None
        elif self._ended is None:
            self._ended = time.monotonic()
        elif time.monotonic() - self._ended > SUPERVISED:
            self._ended = None
            self.process = self._start()

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to its main process alone."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def tell_all(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, as a machine does that hangs or goes down."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def children(self) -> list[int]:
        """The processes that it has started: those of a prefork pool."""
        return [pid for pid in guard.descendants(self.process.pid) if pid != self.process.pid]


class Node:
    """A machine: a worker and a beat, and the network between it and each server."""

    def __init__(self, name: str, proxies: dict[str, Proxy]) -> None:
        self.name = name
        self.proxies = proxies
        self.worker: Service
        self.beat: Service


class System:
    """Everything that runs.

    Attributes:
        nodes: by name.
        services: what the supervisor looks after.
        simulator: speaks to the API's stand-in.
    """

    def __init__(
        self, folder: Path, postgres: embedded.Server, redis: embedded.Server, simulator: httpx.Client
    ):
        self.folder = folder
        self.postgres = postgres
        self.redis = redis
        self.simulator = simulator
        self.nodes: dict[str, Node] = {}
        self.services: list[Service] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    def env(self, proxies: dict[str, Proxy] | None = None) -> dict[str, str]:
        """What a process is told: by way of a node's network, or straight."""
        urls = {"postgres": self.postgres.url, "redis": self.redis.url, "api": str(self.simulator.base_url)}
        urls |= {name: proxy.url for name, proxy in (proxies or {}).items()}
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("VCC_", "COV"))},
            "DATABASE_URL": urls["postgres"],
            "REDIS_URL": urls["redis"],
            "VCC_API_URL": urls["api"],
            "VCC_AUTH_URL": urls["api"],
            "VCC_CLIENT_ID": "simulator",
            "VCC_CLIENT_SECRET": "simulator",
            "VCC_TIMEOUT": f"{TIMEOUT}s",
            "VCC_MAX_REQUESTS": "200",
            "VCC_HOME": str(self.folder / "home"),
        }

    def add_node(self, name: str, proxies: dict[str, Proxy]) -> None:
        """Start a node's worker and beat."""
        node = self.nodes[name] = Node(name, proxies)
        options = ("--pool", POOLS[name], "--concurrency", "4", "--loglevel", "INFO", "-n", f"{name}@chaos")
        node.worker = self.add(f"worker-{name}", (*CELERY, "worker", *options), self.env(proxies))
        node.beat = self.add(f"beat-{name}", (*CELERY, "beat"), self.env(proxies))

    def add(self, name: str, command: Sequence[str], env: dict[str, str]) -> Service:
        """Start a service, and start it again whenever it ends."""
        service = Service(name, command, env, self.folder / f"{name}.log")
        with self._lock:
            self.services.append(service)
        return service

    def remove(self, service: Service) -> None:
        """End a service for good, and whatever it has left."""
        with self._lock:
            self.services.remove(service)
        service.tell_all(signal.SIGKILL)
        service.process.wait()

    @contextmanager
    def without(self, names: Iterable[str]) -> Iterator[None]:
        """Shut nodes down in good order, and start them again at the end."""
        services = [service for name in names for service in (self.nodes[name].worker, self.nodes[name].beat)]
        for service in services:
            service.held = True
            service.tell(signal.SIGTERM)
        for service in services:
            service.process.wait()
        try:
            yield
        finally:
            for service in services:
                service.held = False

    def supervise(self) -> None:
        """Look after the services until ``close``."""
        while not self._over.wait(0.1):
            with self._lock:
                for service in self.services:
                    service.supervise()

    def orphans(self) -> list[str]:
        """Processes whose parent, a service's main process, has ended before them."""
        ended = {pid: s.name for s in self.services for pid in s.started if pid != s.process.pid}
        found = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError):
                if name := ended.get(os.getsid(process.pid)):
                    found.append(name)
                    process.kill()
        return found

    def close(self) -> None:
        """End everything that was started."""
        self._over.set()
        self.orphans()
        for service in list(self.services):
            self.remove(service)

    def connect(self) -> psycopg.Connection[Any]:
        """Look at the table, past the nodes' network."""
        return psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=5)

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Read rows, from a Postgres that runs."""
        with self.connect() as conn:
            return conn.execute(sql, params).fetchall()

    def faults(self, **faults: Any) -> None:
        """Let the API go wrong."""
        self.simulator.post("/_sim/faults", json=faults).raise_for_status()

    def clear_faults(self) -> None:
        """Let the API go well."""
        self.simulator.delete("/_sim/faults").raise_for_status()

    def book(self, *, full: bool = False) -> dict[str, Any]:
        """Read the witness's book."""
        found = self.simulator.get("/_sim/book", params={"full": int(full)}).raise_for_status().json()
        return dict(found)


@contextmanager
def running(folder: Path) -> Iterator[System]:
    """Start the system; at the end nothing of it is left."""
    with ExitStack() as stack:
        home = folder / "home"
        postgres = stack.enter_context(embedded.postgres(home, durable=False))
        # every answered entry is on disk: what a killed Redis had answered must not be missing
        redis = stack.enter_context(embedded.redis(home, fsync="always"))
        migrate.upgrade(postgres.url)
        port = free_port()
        simulator = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
        )
        system = System(folder, postgres, redis, simulator)
        stack.callback(system.close)
        system.add("api", ("-m", "worker.ops.cli", "simulate", "--port", str(port)), system.env())
        until(lambda: _answers(simulator), seconds=30)
        for name in POOLS:
            urls = {
                "postgres": postgres.url,
                "redis": redis.url,
                "api": str(simulator.base_url).rstrip("/"),
            }
            system.add_node(name, {to: stack.enter_context(Proxy(url)) for to, url in urls.items()})
        threading.Thread(target=system.supervise, name="supervisor", daemon=True).start()
        yield system


def _answers(simulator: httpx.Client) -> bool:
    try:
        return simulator.get("/healthz").is_success
    except httpx.TransportError:
        return False
