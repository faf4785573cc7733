"""Each design's best pool size on this machine (apart): what the others then run with."""

from collections.abc import Iterator

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.dramatiq import Dramatiq
from benchmarks.contenders.procrastinate import Procrastinate
from benchmarks.contenders.textbook import Textbook
from benchmarks.figures import Figure, median
from benchmarks.measures.drain import drain
from benchmarks.stand import Stand, say

SIZES: dict[type[Contender], tuple[str, ...]] = {
    Textbook: ("prefork 16", "prefork 32", "prefork 48", "prefork 64"),
    Dramatiq: ("2x8", "2x16", "2x32", "2x44"),
    Procrastinate: ("1x32", "2x8", "2x16", "2x32"),
}


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Drain a small backlog with each size in turn."""
    rates: dict[tuple[str, str], list[float]] = {}
    contenders = [kind(stand) for kind in SIZES]
    for turn in range(rounds):
        for contender in contenders:
            for size in SIZES[type(contender)]:
                rate = drain(stand, contender, 400 if quick else 1200, size)
                rates.setdefault((contender.name, size), []).append(rate)
                say(f"{contender.name}, {size}: {rate:,.0f}/s (round {turn + 1} of {rounds})")
    for (name, size), runs in rates.items():
        yield Figure(f"{name}, {size}", median(runs), "interactions/s")
