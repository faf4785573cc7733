"""The stream door, one job an XADD, from enqueueing to the recorded answer, sustained; against textbook Celery."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.textbook import Textbook
from benchmarks.figures import Figure, median
from benchmarks.producer import WARM
from benchmarks.stand import DELAY, Stand, say, until

OURS, THEIRS = 50_000, 6_000
QUICK_OURS, QUICK_THEIRS = 5_000, 200
PRODUCERS = 2
"""Processes that enqueue: one alone would be slower than the workers."""


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Enqueue one by one from another process while the workers run: from the first to the last recorded answer."""
    ours, textbook = Ours(stand), Textbook(stand)
    counts = {"ours": QUICK_OURS, "textbook": QUICK_THEIRS} if quick else {"ours": OURS, "textbook": THEIRS}
    contenders: dict[str, Contender] = {"ours": ours, "textbook": textbook}
    rates: dict[str, list[float]] = {}
    enqueued: dict[str, list[float]] = {}
    for turn in range(rounds):
        for name, contender in contenders.items():
            rate, produced = sustained(stand, contender, name, counts[name])
            rates.setdefault(name, []).append(rate)
            enqueued.setdefault(name, []).append(produced)
            say(
                f"{contender.name}: {rate:,.0f} jobs/s, enqueued at {produced:,.0f} (round {turn + 1} of {rounds})"
            )
    found = {name: median(runs) for name, runs in rates.items()}
    for name, contender in contenders.items():
        what = f"{contender.name}, {counts[name]:,} jobs one by one"
        yield Figure(f"{what}: enqueued to accepted", found[name], "jobs/s")
        yield Figure(f"{what}: enqueued at", median(enqueued[name]), "jobs/s")
    yield Figure(
        "stream door, sustained, against textbook Celery", found["ours"] / found["textbook"], "×", 20
    )


def sustained(stand: Stand, contender: Contender, name: str, count: int) -> tuple[float, float]:
    """Enqueue and work off so many: jobs a second in all, and enqueued."""
    contender.clean()
    process = contender.start()
    try:
        contender.warm()
        total = contender.recorded() + PRODUCERS * WARM
        producers = [_Producer(name, count // PRODUCERS, contender.prefix()) for _ in range(PRODUCERS)]
        until(lambda: contender.recorded() == total, every=0.1)
        stand.api.reset(DELAY)
        for producer in producers:
            producer.begin()
        times = [producer.times() for producer in producers]
        until(lambda: stand.api.count()["requests"] >= count, every=0.04)
        until(lambda: contender.settled(total + count), every=0.002)
        done = time.monotonic()
        if (recorded := contender.recorded()) != total + count:
            raise RuntimeError(f"{contender.name} has recorded {recorded:,} answers, not {total + count:,}")
    finally:
        stand.kill(process)
    start, end = min(begun for begun, _ in times), max(ended for _, ended in times)
    return count / (done - start), count / (end - start)


class _Producer:
    """Another process, ready to begin."""

    def __init__(self, name: str, count: int, prefix: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.producer", name, str(count), prefix],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError  # both were asked for
        self._told, self._said = self._process.stdin, self._process.stdout
        self._said.readline()

    def begin(self) -> None:
        """Have it enqueue."""
        print(file=self._told, flush=True)

    def times(self) -> tuple[float, float]:
        """Wait for its end: when it began and ended, by the monotonic clock."""
        times = json.loads(self._process.communicate()[0])
        return times["start"], times["end"]
