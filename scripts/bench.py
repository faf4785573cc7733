"""What ``scripts/bench`` measures, on real servers of its own and the API's simulator answering in 50 ms."""

import signal
import statistics
import sys
import time

import psutil
from bench_doors import enqueue, intake, latency
from bench_kill import kill
from bench_stand import ROUNDS, Bench, bench, until

from worker.intake.importer import Importer, Outlets, Tally
from worker.intake.sources import Options, open_source
from worker.intake.sources.generate import write_backlog
from worker.store.claim import CLAIM, claim

INTERACTIONS = 20_000


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
    worker = found.worker("--pool", pool, "--concurrency", str(size))
    try:
        until(lambda: psutil.pid_exists(worker.pid) and _ready())
        start = time.perf_counter()
        from worker.tasks import deliver_due  # noqa: PLC0415 - the app reads the environment when it is imported

        deliver_due.apply_async()
        until(lambda: found.count("dispatched") == INTERACTIONS)
        rate = INTERACTIONS / (time.perf_counter() - start)
        family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        memory = sum(p.memory_full_info().pss for p in family) / 1e6
        start = time.perf_counter()
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        return rate, memory, time.perf_counter() - start
    finally:
        found.kill(worker)


def _ready() -> bool:
    from worker.app import app  # noqa: PLC0415 - the app reads the environment when it is imported

    return bool(app.control.ping(timeout=0.3))


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


MEASUREMENTS = {
    "pools": pools, "import": import_, "claim": claims,
    "enqueue": enqueue, "intake": intake, "latency": latency, "kill": kill,
}  # fmt: skip

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    chosen = sys.argv[1:] or [name for name in MEASUREMENTS if name != "kill"]
    if unknown := set(chosen) - MEASUREMENTS.keys():
        sys.exit(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    with bench() as ready:
        for name in chosen:
            MEASUREMENTS[name](ready)
