"""This project's worker with each pool (apart): interactions a second, memory, seconds to stop."""

import signal
import time
from collections.abc import Iterator

import psutil

from benchmarks.contenders.ours import Ours
from benchmarks.figures import Figure, median
from benchmarks.measures.drain import drained
from benchmarks.stand import Stand, say

POOLS = ("threads 4", "threads 6", "threads 8", "prefork 4", "prefork 8")
COUNT = 30_000


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Drain a backlog with each pool in turn, then stop the worker."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(rounds):
        for pool in POOLS:
            found.setdefault(pool, []).append(_drain(stand, pool, COUNT // 10 if quick else COUNT))
            say(f"{pool}: {found[pool][-1][0]:,.0f} interactions/s (round {turn + 1} of {rounds})")
    for pool, runs in found.items():
        for what, unit, column in zip(
            ("drains", "memory", "stops in"),
            ("interactions/s", "MB", "s"),
            zip(*runs, strict=True),
            strict=True,
        ):
            yield Figure(f"{pool}: {what}", median(column), unit)


def _drain(stand: Stand, pool: str, count: int) -> tuple[float, float, float]:
    with drained(stand, Ours(stand), count, pool) as (worker, rate):
        family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        memory = sum(process.memory_full_info().pss for process in family) / 1e6
        start = time.perf_counter()
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        return rate, memory, time.perf_counter() - start
