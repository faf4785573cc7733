"""Processes that ``vcc up`` keeps running: one that ends is started again, ever more slowly if it keeps ending."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from worker import guard
from worker.ops.printing import say

GRACE = 8.0
"""Seconds that a child has to end in good order."""

LONGEST_PAUSE = 30.0
STEADY = 60.0
"""Seconds of running after which earlier deaths are forgotten."""


class Process(Protocol):
    """What runs: an embedded server, or a child of ours."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def restart(self) -> None:
        """Start it again."""


class Child:
    """One of our own commands, under guard: it ends with this process, however that ends."""

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Start ``vcc`` with ``arguments``; its output is added to ``log``."""
        self.name, self.log = name, log
        self._command = [sys.executable, "-m", "worker.ops.cli", *arguments]
        self._env = dict(env)
        self.restart()

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._guarded.poll()

    def restart(self) -> None:
        """Start it; it must not be running."""
        with self.log.open("ab") as output:
            self._guarded = guard.spawn(self._command, env=self._env, stdout=output, grace=GRACE)

    def stop(self) -> None:
        """Ask it to end, and make it after ``GRACE``."""
        self._guarded.stop()


class Kept:
    """A process with its history of deaths."""

    def __init__(
        self, name: str, process: Process, log: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.log = name, log
        self._process, self._clock = process, clock
        self._deaths = 0
        self._started = clock()
        self._start_at: float | None = None

    def look(self) -> None:
        """Start the process again if it has ended and its pause is over."""
        if self._start_at is None:
            status = self._process.poll()
            if status is not None:
                self._mourn(f"ended with status {status}")
        elif self._clock() >= self._start_at:
            self._start_again()

    def _start_again(self) -> None:
        try:
            self._process.restart()
        except Exception as error:  # whatever keeps it from starting now may have passed by the next time
            self._mourn(f"did not start ({type(error).__name__})")
        else:
            self._started, self._start_at = self._clock(), None

    def _mourn(self, how: str) -> None:
        lived = self._clock() - self._started
        self._deaths = 1 if lived > STEADY else self._deaths + 1
        pause = min(2.0 ** (self._deaths - 1), LONGEST_PAUSE)
        self._start_at = self._clock() + pause
        say(f"{self.name} {how}; it is started again in {pause:.0f} s (see {os.path.relpath(self.log)})")
