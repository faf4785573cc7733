"""A release while a backlog drains: does it wait for more than the call that is under way?"""

import math
import statistics
import time
from collections.abc import Iterator
from itertools import count

import msgspec

from benchmarks.contenders.ours import Ours
from benchmarks.figures import Figure
from benchmarks.stand import DELAY, Stand, jobs, say, until

BACKLOG, QUICK = 100_000, 40_000
SAMPLES, QUICK_SAMPLES = 100, 20
SPACE = 0.05
"""Seconds between two releases."""

READY = 400
"""Interactions that were dispatched before, and can be released in a round."""

DISPATCH, RELEASE = '"action":"dispatch"', '"action":"release"'


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Release one interaction after another while nothing else is there, then while a backlog drains."""
    backlog, samples = (QUICK, QUICK_SAMPLES) if quick else (BACKLOG, SAMPLES)
    ours = Ours(stand)
    ours.clean()
    worker = ours.start()
    ours.warm()
    idle = _round(stand, ours, 0, samples)
    busy: list[float] = []
    for number in count(1):
        busy += _round(stand, ours, backlog, READY)
        say(f"round {number}: {len(busy)} releases while {backlog:,} drain")
        if number >= rounds and len(busy) >= samples:
            break
    stand.kill(worker)
    call, alone, beside = DELAY * 1000, _p99(idle), _p99(busy)
    yield Figure("release, system idle, enqueue to accepted, p99", alone, "ms")
    what = f"release while {backlog:,} drain, enqueue to accepted"
    yield Figure(f"{what}, p50 of {len(busy)}", statistics.median(busy), "ms")
    yield Figure(f"{what}, p99 of {len(busy)}", beside, "ms", 2 * call + alone, least=False)
    # what it takes in an idle system holds a call already: this is what the backlog adds, a call at most
    yield Figure(f"{what}, p99 less what it takes when idle", beside - alone, "ms")


def _round(stand: Stand, ours: Ours, backlog: int, most: int) -> list[float]:
    """Release some while so many drain; milliseconds of those that were enqueued before the backlog's last call."""
    ready = _dispatched(ours, most)
    if backlog:
        ours.fill_many(backlog)
    stand.api.reset(DELAY, keep=True)
    ours.let_go()
    sent = {}
    for externalid in ready:
        if backlog and stand.api.count()["requests"] >= backlog:
            break
        sent[externalid] = time.monotonic()
        ours.client.release(externalid)
        time.sleep(SPACE)
    until(lambda: stand.api.count()["requests"] >= backlog + len(sent))
    book = stand.api.book()
    calls = list(zip(book["starts"], book["kept"], strict=True))
    last = max((start for start, body in calls if DISPATCH in body), default=math.inf)
    accepted = {
        request["externalid"]: start + DELAY
        for start, body in calls
        if RELEASE in body
        for request in msgspec.json.decode(body)["requests"]
    }
    return [(accepted[one] - at) * 1000 for one, at in sent.items() if at <= last]


def _dispatched(ours: Ours, count: int) -> list[str]:
    """Have so many dispatched; their externalids."""
    ready = jobs(count, ours.prefix())
    total = ours.recorded() + count
    ours.client.dispatch_many(ready)
    until(lambda: ours.recorded() == total)
    return [job["externalid"] for job in ready]


def _p99(runs: list[float]) -> float:
    return statistics.quantiles(runs, n=100)[98]
