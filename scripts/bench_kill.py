"""Jobs through every door while workers are killed all the time: is one lost, is one dispatched twice?

The witness is the simulator's book. Half of the jobs are enqueued at once, half one by one, so that the kills hit
every phase.
"""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import msgspec
import psycopg
from bench_doors import Job, jobs, producer, send_task
from bench_stand import POOL, Bench

from worker.client import STREAM, Client

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
    kills: int
    seconds: float
    lost: int
    twice: int
    rest: str

    @property
    def clean(self) -> bool:
        """Whether each was dispatched exactly once."""
        return not (self.lost or self.twice)


def kill(found: Bench) -> None:
    """Kill a worker a second, for each door in turn; exits with 1 unless all but Celery's kills came out clean."""
    with (
        Client(found.settings.redis()) as client,
        psycopg.connect(found.settings.database(), autocommit=True) as conn,
    ):
        doors = {
            "stream": _stream(found, client),
            "inbox": _inbox(conn),
            "Celery": _celery(found),
        }
        results = [result for name, door in doors.items() for result in _endure(found, name, door)]
    print(f"\n{JOBS:,} jobs, two workers, one of them killed every {EVERY:.0f} s; by the simulator's book")
    for r in results:
        print(
            f"  {r.name:14} lost {r.lost:6,}   twice {r.twice:4,}   {r.kills:4} kills   {r.seconds:6.1f} s   {r.rest}"
        )
    if bad := [r.name for r in results if not r.clean and r.name != "Celery"]:
        sys.exit(f"not every job was dispatched exactly once: {', '.join(bad)}")


def _stream(found: Bench, client: Client) -> Door:
    return Door(client.dispatch_many, lambda job: client.send([job]), lambda: int(found.redis.xlen(STREAM)))


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


def _celery(found: Bench) -> Door:
    app = producer(found)

    def many(some: list[Job]) -> None:
        for job in some:
            send_task(app, job)

    def left() -> int:
        # deliveries are in "deliver": a lost one costs a tick, no job
        return int(found.redis.llen("intake")) + int(found.redis.hlen("unacked"))

    return Door(many, lambda job: send_task(app, job), left)


def _endure(found: Bench, name: str, door: Door) -> Iterator[Result]:
    """Send all through a door while workers are killed; Celery's messages once more, in peace."""
    found.clean()
    found.redis.flushdb()
    found.simulator.new_book()
    sent = [{**job, "requestid": str(uuid.uuid4())} for job in jobs(JOBS, f"{name.lower()}-")]
    found.start("-A", "worker.app", "beat", **HURRIED)
    try:
        yield _while_killed(found, name, door, sent)
        if name == "Celery":
            yield _in_peace(found, door, sent)
    finally:
        found.kill()


def _while_killed(found: Bench, name: str, door: Door, sent: list[Job]) -> Result:
    start = time.monotonic()
    with Killer(found) as killer:
        door.many(sent[: len(sent) // 2])
        _paced(door.one, sent[len(sent) // 2 :])
        _settle(found, lambda: True)
    _settle(found, lambda: door.left() == 0)
    return _compare(found, name, sent, killer.kills, time.monotonic() - start)


def _in_peace(found: Bench, door: Door, sent: list[Job]) -> Result:
    """Send what was sent before under the same requestids, and let the workers live."""
    start = time.monotonic()
    door.many(sent)
    _settle(found, lambda: door.left() == 0)
    return _compare(found, "Celery, again", sent, 0, time.monotonic() - start)


def _paced(one: Callable[[Job], object], some: list[Job]) -> None:
    start = time.monotonic()
    for number, job in enumerate(some):
        one(job)
        if (ahead := number / RATE - (time.monotonic() - start)) > 0.005:
            time.sleep(ahead)


class Killer:
    """Two workers, one of them killed every second in turn and started again at once; at the end both run."""

    def __init__(self, found: Bench) -> None:
        self.kills = 0
        self._found = found
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
            self._found.kill(self._workers[turn])
            self.kills += 1
            self._workers[turn] = self._worker(turn)

    def _worker(self, turn: int) -> subprocess.Popen[bytes]:
        # they live for two seconds: not one of them for asking who else is there
        return self._found.worker(*POOL, "--without-mingle", "-n", f"w{turn}@bench", **HURRIED)


def _settle(found: Bench, empty: Callable[[], bool]) -> None:
    """Wait until all are dispatched; else until nothing changes any more."""
    states, since = _states(found), time.monotonic()
    while True:
        before, states = states, _states(found)
        if states != before:
            since = time.monotonic()
        quiet = time.monotonic() - since
        if (states == {"dispatched": JOBS} or quiet > QUIET) and empty():
            return
        if quiet > LONGEST:
            return
        time.sleep(0.25)


def _states(found: Bench) -> dict[str, int]:
    with found.engine.connect() as conn:
        rows = conn.exec_driver_sql("select state::text, count(*) from interactions group by 1").all()
    return {row[0]: row[1] for row in rows}


def _compare(found: Bench, name: str, sent: list[Job], kills: int, seconds: float) -> Result:
    book = found.simulator.book(full=True)
    dispatched = [len(book["ledger"].get(job["externalid"], ())) for job in sent]
    left = {state: count for state, count in _states(found).items() if state != "dispatched"}
    rest = (
        f"{book['calls']:,} calls, {book['repeated_requestids']:,} repeats that the API dropped {left or ''}"
    )
    return Result(name, kills, seconds, dispatched.count(0), sum(n - 1 for n in dispatched if n), rest)
