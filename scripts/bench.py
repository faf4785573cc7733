"""What ``scripts/bench`` measures, on real servers of its own and the API's simulator answering in 50 ms."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy import Engine

from worker import embedded, settings
from worker.intake.importer import Importer, Outlets, Tally
from worker.intake.record import Incoming, take_in
from worker.intake.sources import Options, open_source
from worker.intake.sources.generate import write_backlog
from worker.settings import Settings
from worker.simulator.run import Background
from worker.store import migrate
from worker.store.claim import CLAIM, claim
from worker.store.database import connect

ROUNDS = 3
INTERACTIONS = 20_000
LINKED = [{"type": "clid", "value": "someone@example.test"}, {"type": "mediatype", "value": "Email"}]


class Bench:
    """Servers that run, and a clean table for each measurement."""

    def __init__(self, folder: Path, engine: Engine, given: Settings) -> None:
        self.folder = folder
        self.engine = engine
        self.settings = given

    def clean(self) -> None:
        """Empty every table, and let vacuum begin afresh."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("truncate interactions, invocations, events, receipts, rejections")
            conn.exec_driver_sql("vacuum analyze")

    def fill(self, count: int) -> float:
        """Record so many dispatches; seconds."""
        start = time.perf_counter()
        for first in range(0, count, 1000):
            batch = [
                Incoming({"externalid": f"e{i}", "route": "R", "linkeddata": LINKED}, f"r{i}")
                for i in range(first, min(first + 1000, count))
            ]
            take_in(self.engine, self.settings, "bench", batch)
        return time.perf_counter() - start

    def count(self, state: str) -> int:
        """How many interactions are in a state."""
        with self.engine.connect() as conn:
            return conn.exec_driver_sql(
                "select count(*) from interactions where state = %(s)s::interaction_state", {"s": state}
            ).scalar_one()


@contextmanager
def bench() -> Iterator[Bench]:
    """Start the servers."""
    with (
        tempfile.TemporaryDirectory() as name,
        embedded.postgres(Path(name)) as postgres,
        embedded.redis(Path(name)) as redis,
        Background() as simulator,
    ):
        migrate.upgrade(postgres.url)
        simulator.faults(delay={"by": 0.05})
        os.environ.update(
            DATABASE_URL=postgres.url, REDIS_URL=redis.url, VCC_API_URL=simulator.url, VCC_AUTH_URL=simulator.url,
            VCC_CLIENT_ID="simulator", VCC_CLIENT_SECRET="simulator",
        )  # fmt: skip
        yield Bench(Path(name), connect(postgres.url, pool=10), settings.load())


def pools(found: Bench) -> None:
    """Deliver with each pool in turn: rate, memory, seconds to stop."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(ROUNDS):
        for pool, size in (("threads", 4), ("threads", 8), ("prefork", 4), ("prefork", 8)):
            rows.setdefault(f"{pool} {size}", []).append(_deliver(found, pool, size))
    print(f"\n{INTERACTIONS:,} recorded dispatches, API answering in 50 ms, medians of {ROUNDS}")
    for name, runs in rows.items():
        rate, memory, stop = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"  {name:10}  {rate:8,.0f} interactions/s   {memory:6.0f} MB   stops in {stop:.1f} s")


def _deliver(found: Bench, pool: str, size: int) -> tuple[float, float, float]:
    found.clean()
    found.fill(INTERACTIONS)
    log = (found.folder / "worker.log").open("ab")
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--pool", pool, "-c", str(size)],
        stdout=log, stderr=log,
    )  # fmt: skip
    try:
        _until(lambda: psutil.pid_exists(worker.pid) and _ready())
        start = time.perf_counter()
        from worker.tasks import deliver_due  # noqa: PLC0415 - the app reads the environment when it is imported

        deliver_due.apply_async()
        _until(lambda: found.count("dispatched") == INTERACTIONS)
        rate = INTERACTIONS / (time.perf_counter() - start)
        family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        memory = sum(p.memory_full_info().pss for p in family) / 1e6
        start = time.perf_counter()
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        return rate, memory, time.perf_counter() - start
    finally:
        worker.kill()
        worker.wait()


def _ready() -> bool:
    from worker.app import app  # noqa: PLC0415 - the app reads the environment when it is imported

    return bool(app.control.ping(timeout=0.3))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            sys.exit("did not come about within two minutes")
        time.sleep(0.01)


def import_(found: Bench) -> None:
    """Import a made-up mailbox, and the same again."""
    source = found.folder / "backlog.mbox"
    write_backlog(source, INTERACTIONS, duplicates=100)
    first, again = [], []
    for _ in range(ROUNDS):
        found.clean()
        for seconds in (first, again):
            tally = Tally()
            Importer(found.engine, found.settings, Outlets(), lambda: None).run(
                open_source(source, options=Options(route="R")), tally
            )
            seconds.append(INTERACTIONS / tally.seconds)
    print(f"\n{INTERACTIONS:,} emails from an mbox, medians of {ROUNDS}")
    print(f"  first import {statistics.median(first):8,.0f} emails/s")
    print(f"  the same again {statistics.median(again):6,.0f} emails/s")


def claims(found: Bench) -> None:
    """Claim from an empty table and from one with a million rows that are not due: buffers and milliseconds."""
    print("\na claim of 500 due rows: shared buffers touched, median milliseconds of 5")
    for name, ended, later in (
        ("nothing else there", 0, 0),
        ("1,000,000 ended, 200,000 not due", 1_000_000, 200_000),
    ):
        found.clean()
        with found.engine.begin() as conn:
            conn.exec_driver_sql(
                """insert into interactions (externalid, state, route, dispatch_requestid, release_requestid,
                    release_requested_at, released_at, dispatched_at)
                select 'old' || i, 'released', 'R', 'd' || i, 'x' || i, now(), now(), now()
                from generate_series(1, %(n)s) i""", {"n": ended})  # fmt: skip
            conn.exec_driver_sql(
                """insert into interactions (externalid, state, route, dispatch_requestid, due_at)
                select 'later' || i, 'pending', 'R', 'l' || i, now() + interval '1 day'
                from generate_series(1, %(n)s) i""", {"n": later})  # fmt: skip
        found.fill(3000)
        with found.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("vacuum analyze interactions")
        print(f"  {name:35} {_buffers(found):7,} buffers {_milliseconds(found):6.1f} ms")


WANTED = {"limit": 500, "budget": 99_000, "lease": 90.0}


def _buffers(found: Bench) -> int:
    params = {**WANTED, "ranks": [0, 1, 2], "scan": 500, "give_up": 86_400.0, "probe": False}
    with found.engine.connect() as conn:
        plan = conn.exec_driver_sql("explain (analyze, buffers, format json) " + CLAIM, params).scalar_one()
        conn.rollback()
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


def _milliseconds(found: Bench) -> float:
    taken = []
    for _ in range(5):
        with found.engine.connect() as conn:
            start = time.perf_counter()
            claim(conn, **WANTED, give_up_after=86_400.0, turn=1)  # type: ignore[arg-type]
            taken.append((time.perf_counter() - start) * 1000)
            conn.rollback()
    return statistics.median(taken)


MEASUREMENTS = {"pools": pools, "import": import_, "claim": claims}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := set(chosen) - MEASUREMENTS.keys():
        sys.exit(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    with bench() as ready:
        for name in chosen:
            MEASUREMENTS[name](ready)
