"""The whole house on one machine, for as long as this process lives.

PostgreSQL and Redis (embedded, unless their URLs are set), the workers, the clock, the page, and if wanted the
simulator and Flower. Each is under guard: whatever ends this process ends them.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from worker import embedded, settings
from worker.ops.children import Child, Kept, Process
from worker.ops.failures import CommandError
from worker.ops.printing import emit, say, screen, table, tell
from worker.server import Server, free_port
from worker.settings import Settings
from worker.store import migrate
from worker.vonage.transport import check_urls

LOOK_EVERY = 0.2
READY_WITHIN = 20.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted; ``flower`` and ``page`` are their ports, None for none."""

    simulator: bool = False
    workers: int = 1
    flower: int | None = None
    page: int | None = None


def run(plan: Plan, *, as_json: bool) -> None:
    """Run the house until it is told to stop, then stop everything in order.

    Raises:
        CommandError: it runs in this folder already, or something did not start.
        EmbeddedError: an embedded server can't run.
        SettingsError: a setting is wrong.
    """
    if settings.running():
        raise CommandError(f"`vcc up` runs already with its data in {settings.HOME}: stop that one first")
    current = settings.load()
    if not plan.simulator:
        check_urls(current)
    with _stopped_by_signals(), ExitStack() as stack:
        try:
            house = _House(stack, settings.HOME.resolve())
            house.open(plan, current)
            _present(house, as_json=as_json)
            _keep(house.kept)
        except KeyboardInterrupt:
            say("stopping …")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Make the first signal a KeyboardInterrupt, and let no other disturb the stop."""

    def stop(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep(kept: Sequence[Kept]) -> None:
    while True:
        for process in kept:
            process.look()
        time.sleep(LOOK_EVERY)


@dataclass(slots=True)
class _House:
    """What runs. What is started later is stopped earlier.

    Attributes:
        stack: stops everything.
        home: the folder of data and logs.
        shared: the variables that children and other commands in this folder use.
        kept: what is started again when it ends.
        rows: of each its name, where it listens and its log.
    """

    stack: ExitStack
    home: Path
    shared: dict[str, str] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    simulator: str | None = None
    flower: str | None = None
    page: str | None = None

    def open(self, plan: Plan, current: Settings) -> None:
        """Start everything, in the order of who needs whom."""
        self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        (self.home / "log").mkdir(mode=0o700, exist_ok=True)
        self._serve("postgres", "DATABASE_URL", current.database_url, embedded.postgres)
        self._serve("redis", "REDIS_URL", current.redis_url, embedded.redis)
        migrate.upgrade(self.shared["DATABASE_URL"])
        if plan.simulator:
            self._simulate()
        elif not (current.client_id and current.client_secret.get_secret_value()):
            say(
                "warning: VCC_CLIENT_ID and VCC_CLIENT_SECRET are not set: jobs are recorded, calls wait as"
                " `unauthorised`"
            )
        self._work(plan.workers)
        if plan.flower is not None:
            self.flower = f"http://127.0.0.1:{plan.flower}"
            self._children(
                ("flower", self.flower, ["flower", f"--port={plan.flower}", "--address=127.0.0.1"])
            )
        if plan.page is not None:
            port = plan.page if _is_free(plan.page) else free_port()
            self.page = f"http://127.0.0.1:{port}"
            self._children(("page", self.page, ["web", f"--port={port}"]))
        self._children(("beat", "", ["beat"]))
        self.stack.callback(embedded.withdraw, self.home)
        embedded.announce(self.home, self.shared)

    def _serve(self, name: str, variable: str, given: Any, start: Any) -> None:
        """Use the server that is set, or start an embedded one."""
        if given is not None:
            self.shared[variable] = given.get_secret_value()
            log = ""
        else:
            started: AbstractContextManager[Server] = start(self.home)
            server = self.stack.enter_context(started)
            self.shared[variable] = server.url
            log = str(self._log(name))
            self._add(name, server)
        parts = urlsplit(self.shared[variable])
        self.rows.append((name, f"{parts.hostname}:{parts.port}", log))

    def _simulate(self) -> None:
        port = free_port()
        self.simulator = url = f"http://127.0.0.1:{port}"
        (child,) = self._children(("simulator", url, ["simulate", f"--port={port}"]))
        _await_simulator(url, child)
        self.shared |= {"VCC_API_URL": url, "VCC_AUTH_URL": url}
        self.shared |= {"VCC_CLIENT_ID": "simulator", "VCC_CLIENT_SECRET": "simulator"}

    def _work(self, workers: int) -> None:
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        # names of their own, or Celery takes them for one
        self._children(*((name, "", ["worker", "--", "-n", f"{name}@%h"]) for name in names))

    def _children(self, *wanted: tuple[str, str, list[str]]) -> list[Child]:
        """Start commands of ours that are stopped together."""
        env = {**os.environ, **self.shared, "VCC_HOME": str(self.home)}
        children: list[Child] = []
        self.stack.callback(_stop_all, children)
        for name, where, arguments in wanted:
            children.append(Child(name, arguments, env, self._log(name)))
            self._add(name, children[-1])
            self.rows.append((name, where, str(self._log(name))))
        return children

    def _add(self, name: str, process: Process) -> None:
        self.kept.append(Kept(name, process, self._log(name)))

    def _log(self, name: str) -> Path:
        return self.home / "log" / f"{name}.log"


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _stop_all(children: Sequence[Child]) -> None:
    with ThreadPoolExecutor(max(len(children), 1)) as pool:
        list(pool.map(Child.stop, children))


def _await_simulator(url: str, child: Child) -> None:
    end = time.monotonic() + READY_WITHIN
    while not _answers(url):
        if child.poll() is not None or time.monotonic() > end:
            raise CommandError(f"the simulator did not start: see {child.log}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _present(house: _House, *, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "ready": True,
                "pid": os.getpid(),
                "home": str(house.home),
                "simulator": house.simulator,
                "flower": house.flower,
                "page": house.page,
            }
        )
        return
    screen().print(table(["what", "where", "log"], house.rows))
    tell('\nImport:  vcc import backlog.mbox --route "Route Interaction NR"\nWatch:   vcc stats --watch')
    tell("Stop:    Ctrl-C")
