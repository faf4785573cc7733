"""Wait until what was recorded has been sent, and say what holds it up."""

import time
from dataclasses import dataclass

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from worker.ops.printing import say, screen
from worker.store import gate, queries
from worker.store.database import patiently

LOOK_EVERY = 0.25
"""Seconds between two looks at the table."""

STILL = 10.0
"""Seconds without any progress, the valve open, after which a worker is missed."""


@dataclass(frozen=True, slots=True)
class Left:
    """What came of the interactions that were waited for.

    Attributes:
        sent: accepted by the API, or cancelled before that.
        failed: refused, or given up.
        held: their route waits for an operator.
    """

    sent: int
    failed: int
    held: int

    @property
    def all_well(self) -> bool:
        """Nothing failed and nothing is held."""
        return not (self.failed or self.held)

    @property
    def sentence(self) -> str:
        """The same for people, with what to do."""
        parts = [f"{self.sent:,} sent"]
        parts += [f"{self.failed:,} failed (vcc list --state failed)"] if self.failed else []
        parts += [f"{self.held:,} held (vcc stats names the route)"] if self.held else []
        return ", ".join(parts)


def until_sent(engine: Engine, after: int, until: int) -> Left:
    """Wait until of the interactions with these ids only failed and held ones are unsent.

    Raises:
        KeyboardInterrupt: the operator had enough; the delivery goes on without us.
        sqlalchemy.exc.DBAPIError: the database is away for too long.
    """
    try:
        return _wait(engine, after, until)
    except KeyboardInterrupt:
        say("not waited for any longer; delivery goes on in the background: see `vcc stats`")
        raise


def _wait(engine: Engine, after: int, until: int) -> Left:
    obstacle = _Obstacle()
    with _bar() as bar:
        task = bar.add_task("sending")
        while True:
            progress, valve = patiently(lambda: _look(engine, after, until))
            to_come = progress["to_be_sent"] - progress["held"]
            bar.update(task, total=progress["total"], completed=progress["total"] - to_come)
            if not to_come:
                sent = progress["total"] - progress["to_be_sent"] - progress["failed"]
                return Left(sent, progress["failed"], progress["held"])
            obstacle.tell(valve, to_come)
            time.sleep(LOOK_EVERY)


def _look(engine: Engine, after: int, until: int) -> tuple[dict[str, int], gate.Reading]:
    with engine.connect() as conn:
        return queries.progress(conn, after, until), gate.read(conn)


def _bar() -> Progress:
    console = screen(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


class _Obstacle:
    """What keeps the rest from being sent: told once, when it changes."""

    def __init__(self) -> None:
        self._told = ""
        self._to_come = -1
        self._since = time.monotonic()

    def tell(self, valve: gate.Reading, to_come: int) -> None:
        """Say what is in the way, if that is news."""
        if to_come != self._to_come:
            self._to_come, self._since = to_come, time.monotonic()
        words = self._words(valve)
        if words and words != self._told:
            say(words)
        self._told = words

    def _words(self, valve: gate.Reading) -> str:
        if valve.reason == "paused":
            return f"delivery is paused ({valve.message or 'no reason given'}): `vcc resume` lets it go on"
        if not valve.open:
            return f"delivery is held up: {valve.reason} ({valve.message or 'see `vcc stats`'})"
        if time.monotonic() - self._since > STILL:
            return "nothing has been sent for a while: does a worker run? See `vcc stats` and `vcc check`"
        return ""
