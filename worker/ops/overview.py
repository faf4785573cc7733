"""The whole at a glance, as ``vcc stats`` draws it."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from worker.ops.printing import plain, table

BAR = 30
"""Characters of the longest bar."""

QUIET = 30.0
"""Seconds after which a worker that did nothing is pointed out: the tick alone gives each something to do."""

_HEIGHTS = "▁▂▃▄▅▆▇█"


def overview(stats: dict[str, Any]) -> Group:
    """Draw what ``queries.stats`` found."""
    states = [(state, f"{count:,}") for state, count in stats["states"].items() if count]
    return Group(
        table(["state", "interactions"], states or [("none yet", "")]),
        Text(),
        *(Text(line) for line in _lines(stats)),
    )


def watched(look: dict[str, Any], course: Sequence[float], trouble: str = "") -> Group:
    """Draw what ``Watch`` saw, with the course of its rates; what does not fit into a line is cut off."""
    lines = [*_lines(look), *_more(look, course), *([trouble] if trouble else [])]
    return Group(
        _bars(look["states"]), Text(), *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines)
    )


def line(look: dict[str, Any]) -> str:
    """Put the same into a line, for what is no terminal."""
    rate = look["per_second"]["interactions"]
    parts = [f"due {_number(look['due'])}", f"in flight {_number(look['in_flight'])}"]
    parts += [f"{rate:,.0f} interactions/s"] if rate is not None else []
    parts += [f"{name} {_number(look[name] and look[name]['length'])}" for name in ("stream", "inbox")]
    return plain(", ".join([*parts, f"valve {valve(look['gate'])}"]))


def _bars(states: dict[str, int] | None) -> Any:
    if states is None:
        return Text("being counted …")
    most = max(states.values()) or 1
    rows = [
        (state, f"{count:>15,}", "█" * -(-count * BAR // most)) for state, count in states.items() if count
    ]
    made = table(["state", f"{'interactions':>15}", ""], rows or [("none yet", "", "")])
    for column in made.columns[:2]:
        column.no_wrap = True  # what does not fit is taken off the bars
    made.columns[2].overflow = "crop"
    return made


def sparkline(values: Sequence[float]) -> str:
    """Draw values as columns of one line; the highest fills it.

    >>> sparkline([0, 1, 2, 8])
    '▁▂▃█'
    """
    most = max(values, default=0) or 1
    return "".join(_HEIGHTS[min(int(value / most * 8), 7)] for value in values)


def _lines(stats: dict[str, Any]) -> Iterator[str]:
    waited = stats["oldest_due_seconds"]
    since = f", the oldest for {waited:,.0f} s" if waited is not None else ""
    yield f"due:         {_number(stats['due'])}{since}; in flight {_number(stats['in_flight'])}"
    yield f"valve:       {valve(stats['gate'])}"
    calls = stats["invocations"]
    yield (
        f"calls:       {calls['calls']:,}, {calls['accepted']:,} accepted with {calls['interactions']:,} interactions"
    )
    yield f"rejections:  {_number(stats['rejections'])}"
    for name in ("stream", "inbox"):
        yield f"{name + ':':<12} {_door(stats[name])}"
    for kind in ("route", "provider"):
        for name, message in stats[f"held_{kind}s"].items():
            yield plain(f"held:        {kind} {name}: {message or 'no message'}")


def _door(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not known: Redis can't be reached"
    since = found["oldest_seconds"]
    return f"{found['length']:,}" + (f", the oldest for {since:,.0f} s" if since is not None else "")


def _number(count: int | None) -> str:
    return "…" if count is None else f"{count:,}"


def _more(look: dict[str, Any], course: Sequence[float]) -> Iterator[str]:
    lanes = [
        f"{lane} {seconds:,.0f} s" for lane, seconds in look["oldest_due"].items() if seconds is not None
    ]
    if lanes:
        yield f"oldest due:  {', '.join(lanes)}"
    rates = look["per_second"]
    if rates["calls"] is not None:
        told = f"{rates['calls']:,.1f} calls, {rates['interactions']:,.0f} interactions"
        yield f"per second:  {told}  {sparkline(course)}"
    for one in look["imports"]:
        yield plain(f"import:      {_import(one)}")
    yield plain(f"workers:     {_workers(look['workers'])}")
    if look["counted"]:
        yield f"counted:     {look['counted']['seconds_ago']:,.0f} s ago, in {look['counted']['took']:.1f} s"


def _import(one: dict[str, Any]) -> str:
    how = one["outcome"] or ("silent" if one["silent"] else f"{(one['share'] or 0) * 100:.0f} %")
    counts = ", ".join(f"{one[name]:,} {name}" for name in ("read", "new", "duplicate", "rejected"))
    return f"{one['source']} by {one['who']}: {how}; {counts}"


def _workers(workers: dict[str, float] | None) -> str:
    if workers is None:
        return "not known: Redis can't be reached"
    told = (
        f"{name} quiet for {seconds:,.0f} s" if seconds > QUIET else name for name, seconds in workers.items()
    )
    return ", ".join(told) or "none"


def valve(gate: dict[str, Any]) -> str:
    """Say whether calls are made, and if not, why and until when."""
    rate = f"; slowed to {gate['rate']:.1f} calls/s" if gate["rate"] is not None else ""
    if gate["open"]:
        return f"open{rate}"
    said = f" ({gate['message']})" if gate["message"] else ""
    until = f", next try {plain(gate['opens_at'])}" if gate["opens_at"] is not None else ""
    return plain(f"closed: {gate['reason']}{said}{until}{rate}")
