"""The load: jobs through every door, each sent until its door has taken it."""

import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from celery import Celery
from kombu.exceptions import OperationalError

from tests.chaos.system import System
from worker.client import Client, SendError

PAUSE = 0.2
"""Seconds until a producer tries again."""

IMPORTS, LEAST = 8, 100
"""Import runs in all, and jobs that one is worth its while for."""

Job = dict[str, Any]
Send = Callable[[Sequence[Job]], None]


@dataclass(frozen=True)
class Step:
    """A job, when it is sent (0 to 1 of the whole time), and by which door."""

    at: float
    door: str
    job: Job = field(hash=False)


@dataclass(frozen=True)
class Plan:
    """All that is sent.

    Attributes:
        steps: in the order of time.
        externalids: all of them.
        released: those of which a release is sent.
    """

    steps: list[Step]
    externalids: frozenset[str]
    released: frozenset[str]


def plan(dispatches: int, releases: int, rng: random.Random) -> Plan:
    """Make a plan: one of a hundred jobs comes twice, one of a hundred releases comes before its dispatch."""
    steps = []
    released = frozenset(rng.sample(range(dispatches), releases))
    for number in range(dispatches):
        at = rng.random() * 0.9
        dispatch = _dispatch(f"e{number}", rng)
        steps.append(
            Step(at, rng.choices(("stream", "inbox", "celery", "import"), (4, 3, 2, 2))[0], dispatch)
        )
        if rng.random() < 0.01:
            steps.append(Step(_later(at, rng), _door(rng), dispatch))
        if number in released:
            job = _release(dispatch, rng)
            when = at - rng.random() * 0.01 if rng.random() < 0.01 else _later(at, rng)
            steps.append(Step(when, _door(rng), job))
            if rng.random() < 0.01:
                steps.append(Step(_later(when, rng), _door(rng), job))
        elif rng.random() < 0.01:
            # another one of the same, while it is open: were it released, this would be a new interaction
            steps.append(Step(_later(at, rng), _door(rng), {**dispatch, "requestid": _requestid(rng)}))
    return Plan(
        sorted(steps, key=lambda step: step.at),
        frozenset(f"e{number}" for number in range(dispatches)),
        frozenset(f"e{number}" for number in released),
    )


def _dispatch(externalid: str, rng: random.Random) -> Job:
    job = {
        "externalid": externalid,
        "route": rng.choice(("Sales", "Support")),
        "requestid": _requestid(rng),
        "lane": rng.choice(("live", "backlog")),
        "linkeddata": [{"type": "name", "value": "x" * rng.randrange(200)}],
    }
    return job if rng.random() < 0.5 else {**job, "provider": rng.choice(("Mail", "Chat"))}


def _release(dispatch: Job, rng: random.Random) -> Job:
    job = {
        "action": "release",
        "externalid": dispatch["externalid"],
        "requestid": _requestid(rng),
    }
    return job if rng.random() < 0.5 else {**job, "dispatch_requestid": dispatch["requestid"]}


def _requestid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _door(rng: random.Random) -> str:
    return rng.choice(("stream", "inbox", "celery"))


def _later(at: float, rng: random.Random) -> float:
    return at + (1 - at) * rng.random() ** 2


class Producers:
    """A thread a door, which sends its jobs at their time and each until the door has taken it.

    Args:
        system: where to.
        plan: what.
        seconds: the whole time.
    """

    def __init__(self, system: System, plan: Plan, seconds: float) -> None:
        self._seconds = seconds
        self._start = time.monotonic()
        self._hurry = threading.Event()
        self._threads = []
        for door, opened in DOORS.items():
            steps = [step for step in plan.steps if step.door == door]
            if steps:
                target = self._imports if door == "import" else self._single
                self._threads.append(
                    threading.Thread(target=target, args=(system, opened, steps), name=door, daemon=True)
                )
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        """Whether everything is sent."""
        return not any(thread.is_alive() for thread in self._threads)

    def finish(self) -> None:
        """Send the rest at once, and wait for it."""
        self._hurry.set()
        for thread in self._threads:
            thread.join()

    def _single(self, system: System, opened: Callable[[System], Any], steps: Sequence[Step]) -> None:
        with opened(system) as send:
            for step in steps:
                self._hurry.wait(max(0.0, self._start + step.at * self._seconds - time.monotonic()))
                insist(send, [step.job])

    def _imports(self, system: System, opened: Callable[[System], Any], steps: Sequence[Step]) -> None:
        size = max(LEAST, -(-len(steps) // IMPORTS))
        with opened(system) as send:
            for first in range(0, len(steps), size):
                batch = steps[first : first + size]
                self._hurry.wait(max(0.0, self._start + batch[0].at * self._seconds - time.monotonic()))
                insist(send, [step.job for step in batch])


def insist(send: Send, jobs: Sequence[Job]) -> None:
    """Send the same jobs again, under the same requestids, until the door has taken them."""
    while True:
        try:
            return send(jobs)
        except (SendError, psycopg.Error, OperationalError, ConnectionError, subprocess.SubprocessError):
            time.sleep(PAUSE)


@contextmanager
def by_stream(system: System) -> Iterator[Send]:
    """Send by the stream."""
    with Client(system.redis.url) as client:

        def send(jobs: Sequence[Job]) -> None:
            client.send(list(jobs))

        yield send


@contextmanager
def by_inbox(system: System) -> Iterator[Send]:
    """Insert into the inbox, in a transaction of the service's own."""
    held: list[psycopg.Connection[Any]] = []

    def send(jobs: Sequence[Job]) -> None:
        if not held or held[0].broken:
            held[:] = [system.connect()]
        with held[0].transaction():
            rows = json.dumps(list(jobs))
            held[0].execute(
                "insert into inbox (job) select value from jsonb_array_elements(%s::jsonb)", [rows]
            )

    try:
        yield send
    finally:
        for conn in held:
            conn.close()


@contextmanager
def by_celery(system: System) -> Iterator[Send]:
    """Send messages by the names of the tasks, as a service does that knows nothing else."""
    app = Celery("somebody", broker=system.redis.url)
    app.conf.update(
        task_default_queue="intake",
        broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 5},
    )

    def send(jobs: Sequence[Job]) -> None:
        for job in jobs:
            name = "vcc.release" if job.get("action") == "release" else "vcc.dispatch"
            fields = {key: value for key, value in job.items() if key != "action"}
            app.send_task(name, kwargs=fields, retry=False, argsrepr="", kwargsrepr="")

    try:
        yield send
    finally:
        app.close()


@contextmanager
def by_import(system: System) -> Iterator[Send]:
    """Import a file of jobs."""

    def send(jobs: Sequence[Job]) -> None:
        source = system.folder / "import.jsonl"
        source.write_text("".join(json.dumps(job) + "\n" for job in jobs))
        subprocess.run(
            [sys.executable, "-m", "worker.ops.cli", "import", str(source), "--json"],
            env=system.env(), check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    yield send


DOORS = {"stream": by_stream, "inbox": by_inbox, "celery": by_celery, "import": by_import}
