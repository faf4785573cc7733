"""Canaries: a live dispatch by each door that says whether, and since when, the system serves.

One is sent again and again until it is dispatched, as a producer does: Celery can lose a message with the worker that
was about to get it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg

from tests.chaos.load import Job, by_celery, by_inbox, by_stream, insist
from tests.chaos.system import System

PATIENCE = 120.0
"""Seconds after which a canary counts as dead."""

AGAIN = 5.0
"""Seconds after which it is sent again."""

DOORS = {"stream": by_stream, "inbox": by_inbox, "celery": by_celery}

_numbers = count()


def sing(system: System) -> float | None:
    """Send a canary by each door, and wait until the API has taken them all.

    Returns:
        The seconds that took, without those in which the valve was closed: that waits as the API asks it to, and
        tries less and less often what fails. None where it took too long.
    """
    start = time.monotonic()
    names = [f"canary-{next(_numbers)}" for _ in DOORS]
    over = threading.Event()
    with ThreadPoolExecutor(len(DOORS)) as pool:
        for opened, name in zip(DOORS.values(), names, strict=True):
            pool.submit(
                _send, system, opened, {"externalid": name, "route": "Sales", "requestid": name}, over
            )
        try:
            return _wait(system, names, start)
        finally:
            over.set()


def _send(system: System, opened: Callable[[System], Any], job: Job, over: threading.Event) -> None:
    with opened(system) as send:
        insist(send, [job])
        while not over.wait(AGAIN):
            insist(send, [job])


def _wait(system: System, names: list[str], start: float) -> float | None:
    closed = 0.0
    last = time.monotonic()
    with _watching(system) as look:
        while True:
            done, shut = look(names)
            now = time.monotonic()
            closed += (now - last) if shut else 0.0
            last = now
            if done:
                return now - start - closed
            if now - start - closed > PATIENCE:
                return None
            time.sleep(0.1)


@contextmanager
def _watching(system: System) -> Iterator[Callable[[list[str]], tuple[bool, bool]]]:
    """Give a look at the canaries and at the valve; a database that is away shows neither."""
    held: list[psycopg.Connection[Any]] = []

    def look(names: list[str]) -> tuple[bool, bool]:
        try:
            if not held:
                held.append(system.connect())
            found = (
                held[0]
                .execute(
                    """select (select count(*) from interactions where externalid = any (%s)
                    and state = 'dispatched') = %s, (select closed_until > now() from gate)""",
                    [names, len(names)],
                )
                .fetchone()
            )
        except psycopg.Error:
            held.clear()
            return False, False
        return (bool(found[0]), bool(found[1])) if found else (False, False)

    try:
        yield look
    finally:
        for conn in held:
            conn.close()
