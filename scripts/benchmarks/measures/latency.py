"""From dispatch to acceptance in an idle system: this project's doors and the textbook design, job by job in turn."""

import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import psycopg

from benchmarks.contenders.ours import Ours
from benchmarks.contenders.textbook import Textbook
from benchmarks.figures import Figure
from benchmarks.stand import Job, Stand, jobs, say

WARM, SAMPLES, QUICK = 100, 700, 15
SPACE = 0.04
"""Seconds between two jobs: each finds the system idle."""

REST = 1.0
"""Seconds within which the last one has certainly arrived."""

INBOX = "insert into inbox (job) values (%s::text::jsonb)"

Ways = dict[str, Callable[[Job], object]]


def measure(stand: Stand, _rounds: int, quick: bool) -> Iterator[Figure]:
    """Enqueue one job after another, each way in turn; the API notes when a call is there, and answers at once."""
    ours, textbook = Ours(stand), Textbook(stand)
    for each in (ours, textbook):
        each.clean()
    stand.api.reset(0)
    workers = [ours.start(), textbook.start("prefork 4")]  # few, so that all are warm
    with psycopg.connect(stand.settings.database(), autocommit=True) as conn:
        ways: Ways = {
            textbook.name: textbook.enqueue,
            "stream": ours.enqueue,
            "inbox": lambda job: conn.execute(INBOX, [msgspec.json.encode(job).decode()]),
        }
        _in_turn(stand, ways, QUICK if quick else WARM)
        taken = _in_turn(stand, ways, QUICK if quick else SAMPLES)
    stand.kill(*workers)
    theirs = _percentiles(taken[textbook.name])
    for name, runs in taken.items():
        for cut, value in zip(("p50", "p99"), _percentiles(runs), strict=True):
            yield Figure(f"idle latency, dispatch to accepted: {name}, {cut}", value, "ms")
    for name in ("stream", "inbox"):
        for cut, value, their in zip(("p50", "p99"), _percentiles(taken[name]), theirs, strict=True):
            bar = 1.0 if name == "stream" else None
            yield Figure(
                f"idle latency: {name} against textbook Celery, {cut}", value / their, "×", bar, least=False
            )


def _in_turn(stand: Stand, ways: Ways, count: int) -> dict[str, list[float]]:
    """Send so many each way; milliseconds that each took."""
    say(f"{count} jobs each way")
    stand.api.reset(0, keep=True)
    sent: dict[str, dict[str, float]] = {name: {} for name in ways}
    made = {name: jobs(count, f"{name[0]}{time.monotonic_ns()}-") for name in ways}
    for number in range(count):
        for name, send in ways.items():
            job = made[name][number]
            sent[name][job["externalid"]] = time.monotonic()
            send(job)
            time.sleep(SPACE)
    time.sleep(REST)
    arrived = arrivals(stand)
    return {name: [(arrived[one] - at) * 1000 for one, at in found.items()] for name, found in sent.items()}


def arrivals(stand: Stand) -> dict[str, float]:
    """When the API saw each externalid, by the clock of ``time.monotonic``."""
    book = stand.api.book()
    return {
        request["externalid"]: start
        for start, body in zip(book["starts"], book["kept"], strict=True)
        for request in msgspec.json.decode(body)["requests"]
    }


def _percentiles(runs: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(runs, n=100)
    return cuts[49], cuts[98]
