"""A backlog drained: this project against the other designs, and against the limit."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.dramatiq import Dramatiq
from benchmarks.contenders.limit import per_call
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.procrastinate import Procrastinate
from benchmarks.contenders.textbook import Textbook
from benchmarks.figures import Figure, median
from benchmarks.stand import DELAY, THREADS, Stand, jobs, say, until

OURS, THEIRS = 100_000, 8_000
"""Interactions: as many of theirs would take minutes; these take ten to twenty seconds."""

QUICK_OURS, QUICK_THEIRS = 20_000, 200


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Drain a backlog by each design in turn: from the moment that its warm workers see it to the last answer."""
    ours, theirs = (QUICK_OURS, QUICK_THEIRS) if quick else (OURS, THEIRS)
    peers: list[Contender] = [Textbook(stand), Dramatiq(stand), Procrastinate(stand)]
    own = Ours(stand)
    rates: dict[str, list[float]] = {}

    def note(name: str, rate: float) -> None:
        rates.setdefault(name, []).append(rate)
        say(f"{name}: {rate:,.0f} interactions/s (round {len(rates[name])} of {rounds})")

    for _ in range(rounds):
        note("the limit", limit(stand, ours))
        note(own.name, drain(stand, own, ours))
        for peer in peers:
            note(peer.name, drain(stand, peer, theirs))
    found = {name: median(runs) for name, runs in rates.items()}
    mine, best = found[own.name], max(found[peer.name] for peer in peers)
    for name, rate in found.items():
        shape = next(
            (f", {one.size}" for one in (own, *peers) if one.name == name), f", {THREADS} calls at once"
        )
        count = ours if name in ("the limit", own.name) else theirs
        yield Figure(f"backlog of {count:,} drained by {name}{shape}", rate, "interactions/s")
    yield Figure("backlog drained, against textbook Celery", mine / found["textbook Celery"], "×", 60)
    yield Figure("backlog drained, against the best of the others", mine / best, "×", 5)
    yield Figure("backlog drained, against the limit", mine / found["the limit"], "×", 0.45)


def drain(stand: Stand, contender: Contender, count: int, size: str | None = None) -> float:
    """Drain so many; interactions a second."""
    with drained(stand, contender, count, size) as (_, rate):
        return rate


@contextmanager
def drained(
    stand: Stand, contender: Contender, count: int, size: str | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Drain so many: the workers, which still run, and interactions a second."""
    contender.clean()
    process = contender.start(size)
    try:
        contender.warm()
        if isinstance(contender, Ours):
            contender.fill_many(count)
        else:
            contender.fill(jobs(count, contender.prefix()))
        before = contender.recorded()
        stand.api.reset(DELAY)
        start = time.perf_counter()
        contender.let_go()
        until(lambda: stand.api.count()["requests"] >= count, every=0.04)  # less than an answer takes
        until(lambda: contender.settled(before + count), every=0.002)
        seconds = time.perf_counter() - start
        if (recorded := contender.recorded()) != before + count:
            raise RuntimeError(f"{contender.name} has recorded {recorded:,} answers, not {before + count:,}")
        yield process, count / seconds
    finally:
        stand.kill(process)


def limit(stand: Stand, count: int, each: int | None = None) -> float:
    """Send so many by the bare script, in the largest calls or in such of so many; interactions a second."""
    stand.api.reset(DELAY)
    command = [sys.executable, "-m", "benchmarks.contenders.limit"]
    said = subprocess.run(
        [*command, str(THREADS), str(count), str(each or per_call())], check=True, capture_output=True
    )
    return count / float(json.loads(said.stdout)["seconds"])
