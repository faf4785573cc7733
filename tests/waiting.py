"""Wait on a condition instead of sleeping for a guess."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST, LAST, SLOWER = 0.01, 0.1, 1.2
"""Seconds between two questions, at first and at last: who waits long leaves the machine to what it waits for."""

LEAST = 60.0
"""Seconds that are always waited: a machine may be busy, and who waits in vain has lost anyway."""


def until(condition: Callable[[], T], *, seconds: float = 10.0) -> T:
    """Ask again and again until the condition holds, and return what it gave; fail after ``seconds`` or a minute."""
    seconds = max(seconds, LEAST)
    end = time.monotonic() + seconds
    pause = FIRST
    while not (found := condition()):
        assert time.monotonic() < end, f"not so within {seconds} seconds"
        time.sleep(pause)
        pause = min(pause * SLOWER, LAST)
    return found
