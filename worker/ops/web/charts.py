"""Charts: SVG made here, without a style or a script of its own; the numbers stand in a table beside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from worker.store.tallies import Bin, percentile

WIDTH, HEIGHT = 600, 120

KINDS = ("accepted", "refused", "throttled", "other")
"""How outcomes are told apart; each has a class of its own in the style sheet."""

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and what it shows.

    Attributes:
        title: what is drawn.
        svg: the drawing.
        legend: class and name of each row, for who reads colours, and for the table.
        head: of the table.
        rows: the numbers, the newest first.
        top: the largest value, as text.
        since: when the drawing begins.
    """

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    top: str
    since: str


def kind(outcome: str) -> str:
    """Tell which of ``KINDS`` an outcome is drawn as."""
    return outcome if outcome in KINDS else "other"


def stacked(title: str, bins: Sequence[Bin], of: int, per: float) -> Chart:
    """Draw calls (``of`` 0) or interactions (1) by outcome, per minute.

    Args:
        title: what it says above.
        bins: the steps of time.
        of: which of an outcome's two numbers.
        per: minutes of a step.
    """
    columns = []
    for one in bins:
        found = dict.fromkeys(KINDS, 0.0)
        for outcome, numbers in one.outcomes.items():
            found[kind(outcome)] += numbers[of] / per
        columns.append(found)
    top = max((sum(column.values()) for column in columns), default=0) or 1
    step = WIDTH / max(len(bins), 1)
    bars = []
    for place, column in enumerate(columns):
        y = float(HEIGHT)
        for name, value in column.items():
            height = value / top * (HEIGHT - 4)
            y -= height
            if value:
                bars.append(
                    f'<rect class="{name}" x="{place * step:.1f}" y="{y:.1f}" '
                    f'width="{max(step - 0.6, 0.6):.1f}" height="{height:.1f}"/>'
                )
    rows = [
        (_moment(one, bins), *(f"{column[name]:,.1f}" for name in KINDS))
        for one, column in zip(bins, columns, strict=True)
        if any(column.values())
    ]
    return Chart(
        title,
        _svg(title, bars),
        [(name, name) for name in KINDS],
        ["minute", *KINDS],
        rows[::-1],
        f"{top:,.1f}" if top < 10 else f"{top:,.0f}",
        _moment(bins[0], bins) if bins else "",
    )


def latencies(title: str, bins: Sequence[Bin]) -> Chart:
    """Draw how long calls took: the median, and what 95 and 99 of a hundred stayed below."""
    curves = [[percentile(one.buckets, q) for one in bins] for q in QUANTILES]
    top = max((value for curve in curves for value in curve if value is not None), default=0) or 1
    names = [f"p{q * 100:.0f}" for q in QUANTILES]
    drawn = [
        f'<polyline class="{name}" points="{points}"/>'
        for name, curve in zip(names, curves, strict=True)
        for points in _lines(curve, lambda value: HEIGHT - value / top * (HEIGHT - 4))
    ]
    rows = [
        (_moment(one, bins), *("" if value is None else f"{value * 1000:,.0f} ms" for value in values))
        for one, *values in zip(bins, *curves, strict=True)
        if any(value is not None for value in values)
    ]
    return Chart(
        title,
        _svg(title, drawn),
        [(name, name) for name in names],
        ["minute", *names],
        rows[::-1],
        f"{top * 1000:,.0f} ms",
        _moment(bins[0], bins) if bins else "",
    )


def _lines(curve: Sequence[float | None], height: Callable[[float], float]) -> list[str]:
    """Points of each unbroken part; a lone one is drawn as a short line."""
    step = WIDTH / max(len(curve), 1)
    parts: list[list[str]] = [[]]
    for place, value in enumerate(curve):
        if value is None:
            parts.append([])
        else:
            y = height(value)
            parts[-1] += [f"{place * step:.1f},{y:.1f}", f"{(place + 1) * step:.1f},{y:.1f}"]
    return [" ".join(part) for part in parts if part]


def _svg(title: str, inside: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 -- numbers and words of ours, and the title is escaped
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{"".join(inside)}</svg>'
    )


def _moment(one: Bin, bins: Sequence[Bin]) -> str:
    """The time, and the day where there are two of them."""
    return one.at.strftime("%H:%M" if bins[0].at.date() == bins[-1].at.date() else "%m-%d %H:%M")
