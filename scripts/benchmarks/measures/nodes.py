"""Two nodes against one, one worker process each, where the API is slow: does a second one double the rate?"""

import subprocess
import time
from collections.abc import Iterator

from benchmarks.contenders.ours import Ours
from benchmarks.figures import Figure, median
from benchmarks.stand import THREADS, Stand, say, until

DELAY = 0.5
COUNT, QUICK = 100_000, 6_000


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Drain the same backlog with one node and with two, in turn."""
    count = QUICK if quick else COUNT
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for nodes, found in rates.items():
            found.append(_drain(stand, nodes, count))
            say(
                f"round {number + 1} of {rounds}: {nodes} of {THREADS} threads, {found[-1]:,.0f} interactions/s"
            )
    one, two = (median(found) for found in rates.values())
    what = f"API answering in {DELAY * 1000:.0f} ms, {THREADS} threads a node"
    yield Figure(f"{what}: one node", one, "interactions/s")
    yield Figure(f"{what}: two nodes", two, "interactions/s")
    yield Figure(f"{what}: two nodes against one", two / one, "×", 1.8)


def _drain(stand: Stand, nodes: int, count: int) -> float:
    """Drain so many with so many nodes; interactions a second, from letting go to the last recorded answer."""
    ours = Ours(stand)
    ours.clean()
    workers = [_start(stand, number) for number in range(nodes)]
    try:
        until(lambda: _answering() == nodes)
        stand.api.reset(0.05)
        ours.warm()
        before = ours.recorded()
        ours.fill_many(count)
        stand.api.reset(DELAY)
        start = time.perf_counter()
        ours.let_go()
        until(lambda: stand.api.count()["requests"] >= count, every=0.05)
        until(lambda: ours.settled(before + count), every=0.002)
        seconds = time.perf_counter() - start
    finally:
        stand.kill(*workers)
    return count / seconds


def _start(stand: Stand, number: int) -> subprocess.Popen[bytes]:
    command = ("worker.ops.cli", "worker", "--concurrency", str(THREADS))
    return stand.start(*command, "--", "--hostname", f"node{number}@bench")


def _answering() -> int:
    from worker.app import app  # noqa: PLC0415 - the app reads the environment when it is imported

    return len(app.control.ping(timeout=0.5))
