"""A backlog under VCC_RATE=10, against the time that the rate and 100 KB a call allow."""

from bisect import bisect_left
from collections.abc import Iterator
from math import ceil

from benchmarks.contenders.limit import per_call
from benchmarks.contenders.ours import Ours
from benchmarks.figures import Figure, median
from benchmarks.stand import Stand, say, until

RATE = 10
DELAY = 0.1


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Drain a recorded backlog under the rate, from the first call to the last recorded answer."""
    count = 10_000 if quick else 100_000
    allowed = (ceil(count / per_call()) - 1) / RATE + DELAY
    ratios, most = [], []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: {allowed:.1f} s at best")
        seconds, starts = _drain(stand, count)
        ratios.append(seconds / allowed)
        most.append(_most_in_a_second(starts))
    what = f"{count:,} interactions at VCC_RATE={RATE}"
    yield Figure(
        f"{what}, against the {allowed:.1f} s that rate and 100 KB allow",
        median(ratios),
        "×",
        1.2,
        least=False,
    )
    yield Figure(
        f"{what}: calls started within any second, at most", max(most), "calls", RATE + 1, least=False
    )


def _drain(stand: Stand, count: int) -> tuple[float, list[float]]:
    ours = Ours(stand)
    ours.clean()
    ours.fill_many(count)
    process = ours.start(VCC_RATE=str(RATE))
    try:
        stand.api.reset(DELAY)
        stand.resume()
        until(lambda: stand.api.count()["requests"] >= count, every=0.1)
        until(lambda: ours.settled(count), every=0.01)
        recorded = ours.recorded()
    finally:
        stand.kill(process)
    if recorded != count:
        raise RuntimeError(f"{recorded:,} answers are recorded, not {count:,}")
    starts = stand.api.book()["starts"]
    with stand.engine.connect() as conn:
        seconds = conn.exec_driver_sql(
            "select extract(epoch from max(updated_at) - min(first.at))::float8"
            " from interactions, (select min(started_at) as at from invocations) first where state = 'dispatched'"
        ).scalar_one()
    return float(seconds), starts


def _most_in_a_second(starts: list[float]) -> int:
    """The most calls that began within one second, wherever it begins."""
    starts = sorted(starts)
    return max(bisect_left(starts, start + 1.0) - number for number, start in enumerate(starts))
