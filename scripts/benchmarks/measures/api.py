"""The light API's own CPU for a call (apart), large and small: it must not be what is measured."""

from collections.abc import Iterator

import psutil

from benchmarks.contenders.limit import per_call
from benchmarks.figures import Figure, median
from benchmarks.measures.drain import limit
from benchmarks.stand import Stand

CALLS = 400


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Send calls by the bare script, and read the clock of the API's process."""
    process = psutil.Process(stand.api.pid)
    for each in (per_call(), 1):
        costs = []
        for _ in range(rounds):
            before = sum(process.cpu_times()[:2])
            limit(stand, CALLS * each, each)
            costs.append((sum(process.cpu_times()[:2]) - before) / CALLS * 1000)
        many = f"{each} interactions" if each > 1 else "one interaction"
        yield Figure(f"the benchmark's API, its CPU for a call of {many}", median(costs), "ms")
