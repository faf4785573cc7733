"""The whole at a glance, as ``vcc stats`` draws it."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.text import Text

from worker.ops.printing import plain, table


def overview(stats: dict[str, Any]) -> Group:
    """Draw what ``queries.stats`` found."""
    states = [(state, f"{count:,}") for state, count in stats["states"].items() if count]
    return Group(
        table(["state", "interactions"], states or [("none yet", "")]),
        Text(),
        *(Text(line) for line in _lines(stats)),
    )


def _lines(stats: dict[str, Any]) -> Iterator[str]:
    waited = stats["oldest_due_seconds"]
    since = f", the oldest for {waited:,.0f} s" if waited is not None else ""
    yield f"due:         {stats['due']:,}{since}; in flight {stats['in_flight']:,}"
    yield f"valve:       {valve(stats['gate'])}"
    calls = stats["invocations"]
    yield (
        f"calls:       {calls['calls']:,}, {calls['accepted']:,} accepted with {calls['interactions']:,} interactions"
    )
    yield f"rejections:  {stats['rejections']:,}"
    for kind in ("route", "provider"):
        for name, message in stats[f"held_{kind}s"].items():
            yield plain(f"held:        {kind} {name}: {message or 'no message'}")


def valve(gate: dict[str, Any]) -> str:
    """Say whether calls are made, and if not, why and until when."""
    rate = f"; slowed to {gate['rate']:.1f} calls/s" if gate["rate"] is not None else ""
    if gate["open"]:
        return f"open{rate}"
    said = f" ({gate['message']})" if gate["message"] else ""
    until = f", next try {plain(gate['opens_at'])}" if gate["opens_at"] is not None else ""
    return plain(f"closed: {gate['reason']}{said}{until}{rate}")
