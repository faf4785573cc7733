"""Jobs through every door while workers are killed all the time: is one lost, is one dispatched twice (apart)?

Twenty minutes; ``JOBS=5000 scripts/bench kill`` takes less. The witness is the simulator's book. Half of the jobs are
enqueued at once, half one by one, so that the kills hit every phase.
"""

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import msgspec
import psycopg

from benchmarks.figures import Figure
from benchmarks.measures.doors import producer, send_task
from benchmarks.stand import DELAY, THREADS, Job, Stand, jobs, say
from worker.client import STREAM, Client
from worker.simulator.run import Background

JOBS = int(os.environ.get("JOBS", "50000"))
EVERY = 1.0
"""Seconds between two kills."""

RATE = 1000
"""Jobs a second that are enqueued one by one."""

QUIET, LONGEST = 60.0, 360.0
"""Seconds without any change after which nothing more is expected: with an empty door, and in any case.

A worker needs one or two to start, several where the machine is busy; a lease ends after 6; Celery gives back what
a dead worker had in its hands after 150.
"""

HURRIED = {"VCC_TIMEOUT": "2s", "VCC_MAX_REQUESTS": "50"}
"""A short lease, and many small calls, so that many are under way when a worker is killed."""


@dataclass(frozen=True)
class Door:
    """A door: how jobs go in, and how many have not been taken in yet."""

    many: Callable[[list[Job]], object]
    one: Callable[[Job], object]
    left: Callable[[], int]


@dataclass(frozen=True)
class Result:
    """What the book says of the jobs that were sent, against their number."""

    name: str
    jobs: int
    kills: int
    seconds: float
    lost: int
    twice: int
    rest: str


def measure(stand: Stand, _rounds: int, quick: bool) -> Iterator[Figure]:
    """Kill a worker a second, for each door in turn; all but Celery's kills have to come out clean."""
    count = 1000 if quick else JOBS
    with (
        Background() as simulator,
        Client(stand.settings.redis()) as client,
        psycopg.connect(stand.settings.database(), autocommit=True) as conn,
    ):
        simulator.faults(delay={"by": DELAY})
        doors = {
            "stream": _stream(stand, client),
            "inbox": _inbox(conn),
            "Celery": _celery(stand),
        }
        for name, door in doors.items():
            for result in _Trial(stand, simulator, count).endure(name, door):
                yield from _figures(result)


def _figures(result: Result) -> Iterator[Figure]:
    say(f"{result.name}: {result.kills} kills in {result.seconds:.0f} s; {result.rest}")
    bar = None if result.name == "Celery" else 0
    yield Figure(
        f"{result.name}: lost, of {result.jobs:,} ({result.kills} kills)",
        result.lost,
        "jobs",
        bar,
        least=False,
    )
    yield Figure(f"{result.name}: dispatched twice", result.twice, "jobs", bar, least=False)


def _stream(stand: Stand, client: Client) -> Door:
    return Door(client.dispatch_many, lambda job: client.send([job]), lambda: int(stand.redis.xlen(STREAM)))


def _inbox(conn: psycopg.Connection) -> Door:
    def insert(some: list[Job]) -> None:
        conn.execute(
            "insert into inbox (job) select value from jsonb_array_elements(%s::text::jsonb)",
            [msgspec.json.encode(some).decode()],
        )

    def left() -> int:
        row = conn.execute("select count(*) from inbox").fetchone()
        return int(row[0]) if row else 0

    # without requestids, so that the row's own id has to serve
    return Door(
        lambda some: insert([_unnamed(job) for job in some]), lambda job: insert([_unnamed(job)]), left
    )


def _unnamed(job: Job) -> Job:
    return {name: value for name, value in job.items() if name != "requestid"}


def _celery(stand: Stand) -> Door:
    app = producer(stand)

    def many(some: list[Job]) -> None:
        for job in some:
            send_task(app, job)

    def left() -> int:
        # deliveries are in "deliver": a lost one costs a tick, no job
        return int(stand.redis.llen("intake")) + int(stand.redis.hlen("unacked"))

    return Door(many, lambda job: send_task(app, job), left)


class _Trial:
    """One door's jobs, its killer and its witness."""

    def __init__(self, stand: Stand, simulator: Background, count: int) -> None:
        self._stand = stand
        self._simulator = simulator
        self._count = count
        self._env = {**HURRIED, "VCC_API_URL": simulator.url, "VCC_AUTH_URL": simulator.url}
        self._env |= {"VCC_CLIENT_ID": "simulator", "VCC_CLIENT_SECRET": "simulator"}

    def endure(self, name: str, door: Door) -> Iterator[Result]:
        """Send all through a door while workers are killed; Celery's messages once more, in peace."""
        self._stand.clean()
        self._simulator.new_book()
        sent = [{**job, "requestid": str(uuid.uuid4())} for job in jobs(self._count, f"{name.lower()}-")]
        self._stand.start("worker.ops.cli", "beat", **self._env)
        try:
            yield self._while_killed(name, door, sent)
            if name == "Celery":
                yield self._in_peace(door, sent)
        finally:
            self._stand.kill()

    def _while_killed(self, name: str, door: Door, sent: list[Job]) -> Result:
        start = time.monotonic()
        with Killer(self._stand, self._env) as killer:
            door.many(sent[: len(sent) // 2])
            _paced(door.one, sent[len(sent) // 2 :])
            self._settle(lambda: True)
        self._settle(lambda: door.left() == 0)
        return self._compare(name, sent, killer.kills, time.monotonic() - start)

    def _in_peace(self, door: Door, sent: list[Job]) -> Result:
        """Send what was sent before under the same requestids, and let the workers live."""
        start = time.monotonic()
        door.many(sent)
        self._settle(lambda: door.left() == 0)
        return self._compare("Celery, again", sent, 0, time.monotonic() - start)

    def _settle(self, empty: Callable[[], bool]) -> None:
        """Wait until all are dispatched; else until nothing changes any more."""
        states, since = self._states(), time.monotonic()
        while True:
            before, states = states, self._states()
            if states != before:
                since = time.monotonic()
            quiet = time.monotonic() - since
            if (states == {"dispatched": self._count} or quiet > QUIET) and empty():
                return
            if quiet > LONGEST:
                return
            time.sleep(0.25)

    def _states(self) -> dict[str, int]:
        with self._stand.engine.connect() as conn:
            rows = conn.exec_driver_sql("select state::text, count(*) from interactions group by 1").all()
        return {row[0]: row[1] for row in rows}

    def _compare(self, name: str, sent: list[Job], kills: int, seconds: float) -> Result:
        book = self._simulator.book(full=True)
        dispatched = [len(book["ledger"].get(job["externalid"], ())) for job in sent]
        left = {state: count for state, count in self._states().items() if state != "dispatched"}
        rest = f"{book['calls']:,} calls, {book['repeated_requestids']:,} repeats that the API dropped {left or ''}"
        return Result(
            name, len(sent), kills, seconds, dispatched.count(0), sum(n - 1 for n in dispatched if n), rest
        )


def _paced(one: Callable[[Job], object], some: list[Job]) -> None:
    start = time.monotonic()
    for number, job in enumerate(some):
        one(job)
        if (ahead := number / RATE - (time.monotonic() - start)) > 0.005:
            time.sleep(ahead)


class Killer:
    """Two workers, one of them killed every second in turn and started again at once; at the end both run."""

    def __init__(self, stand: Stand, env: dict[str, str]) -> None:
        self.kills = 0
        self._env = env
        self._stand = stand
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="killer")

    def __enter__(self) -> Self:
        self._workers = [self._worker(turn) for turn in (0, 1)]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._stop.wait(EVERY):
            turn = self.kills % 2
            self._stand.kill(self._workers[turn])
            self.kills += 1
            self._workers[turn] = self._worker(turn)

    def _worker(self, turn: int) -> subprocess.Popen[bytes]:
        # they live for two seconds: not one of them for asking who else is there
        command = ("celery", "-A", "worker.app", "worker", "--pool", "threads", "--concurrency", str(THREADS))
        return self._stand.start(*command, "--without-mingle", "-n", f"w{turn}@bench", **self._env)
