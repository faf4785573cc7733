"""Calls for 10,000 small interactions, against what 100 KB in a call allow."""

import math
from collections.abc import Iterator

from benchmarks.contenders.limit import per_call
from benchmarks.contenders.ours import Ours
from benchmarks.figures import Figure, median
from benchmarks.measures.drain import drain
from benchmarks.stand import Stand

COUNT = 10_000


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Drain them from the table, and count the calls."""
    ours = Ours(stand)
    each = per_call()
    allowed = math.ceil(COUNT / each)
    calls = []
    for _ in range(rounds):
        drain(stand, ours, COUNT)
        calls.append(stand.api.count()["calls"])
    yield Figure(f"calls for {COUNT:,} small interactions, {each} to 100 KB", median(calls), "calls")
    yield Figure("calls, against what 100 KB allow", median(calls) / allowed, "×", 1.1, least=False)
