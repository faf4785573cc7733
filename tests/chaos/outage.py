"""A long outage of the API: what it costs the API and the interactions, and how fast the backlog drains afterwards."""

import time
from collections.abc import Callable
from typing import Any

from tests.chaos.load import Job, by_stream, insist
from tests.chaos.system import System
from tests.waiting import until

BACKLOG = 20_000
PROBES = 4
"""Calls a minute at most."""


def outage(system: System, minutes: float, say: Callable[[str], None]) -> tuple[dict[str, Any], bool]:
    """Drain one backlog in peace and one after so many minutes of 503; figures, and whether they are as promised."""
    say(f"{BACKLOG:,} recorded behind a pause, then let go")
    _execute(system, "update gate set paused_at = now()")
    _send(system, "a")
    _execute(system, "update gate set paused_at = null")
    before = _drained(system, "a", after=0)
    say(f"the API answers 503 for {minutes:g} minutes, {BACKLOG:,} more are recorded")
    system.faults(html503={})
    calls, start = system.book()["calls"], time.monotonic()
    _send(system, "b")
    time.sleep(max(0.0, minutes * 60 - (time.monotonic() - start)))
    meanwhile = system.book()["calls"] - calls
    most = system.rows("select max(attempts) from interactions where externalid like 'b%%'")[0][0]
    say("the API is well again")
    system.clear_faults()
    after = _drained(system, "b", after=50)
    states = dict(system.rows("select state::text, count(*) from interactions group by 1"))
    found = {
        "minutes": minutes,
        "calls_meanwhile": meanwhile,
        "attempts_of_one_at_most": most,
        "states": states,
        "drained_per_second_before": round(before),
        "drained_per_second_after": round(after),
    }
    return found, meanwhile <= max(8, PROBES * minutes) and list(states) == [
        "dispatched"
    ] and after > before / 2


def _execute(system: System, statement: str) -> None:
    with system.connect() as conn:
        conn.execute(statement)


def _send(system: System, prefix: str) -> None:
    jobs: list[Job] = [
        {"externalid": f"{prefix}{n}", "route": "Sales", "requestid": f"{prefix}{n}", "lane": "backlog"}
        for n in range(BACKLOG)
    ]
    with by_stream(system) as send:
        for first in range(0, len(jobs), 500):
            insist(send, jobs[first : first + 500])
    until(lambda: _count(system, prefix, "true") == BACKLOG, seconds=60)


def _count(system: System, prefix: str, which: str) -> int:
    found: int = system.rows(
        f"select count(*) from interactions where externalid like '{prefix}%%' and {which}"
    )[0][0]
    return found


def _drained(system: System, prefix: str, *, after: int) -> float:
    """Interactions a second, from when so many are dispatched (the probe's waiting aside) to the last."""
    until(lambda: _count(system, prefix, "state = 'dispatched'") > after, seconds=120)
    start, first = time.monotonic(), _count(system, prefix, "state = 'dispatched'")
    until(lambda: _count(system, prefix, "state = 'dispatched'") == BACKLOG, seconds=300)
    return (BACKLOG - first) / (time.monotonic() - start)
