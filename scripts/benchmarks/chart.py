"""The picture of a run: how fast each design drains a backlog, and how far each figure is from its bar."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.figures import Figure, number

WIDTH, LEFT, RIGHT = 860, 24, 200
SPAN = WIDTH - LEFT - RIGHT
ROW, TOP = 40, 64

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .value { font-weight: 600 }
  .quiet { fill: #59636e }
  .ground { fill: #ffffff; stroke: #d1d9e0 }
  .own { fill: #1a7f5a } .other { fill: #8c959f } .short { fill: #cf222e }
  .line { stroke: #59636e; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .quiet { fill: #9198a1 }
    .ground { fill: #0d1117; stroke: #3d444d }
    .own { fill: #3fb68b } .other { fill: #6e7681 } .short { fill: #f85149 }
    .line { stroke: #9198a1 }
  }
"""

LEAST_SHOWN, MOST_SHOWN = 0.1, 10.0
"""How far from its bar a figure is drawn; beyond that the bar of the picture ends."""


def draw(figures: Sequence[Figure]) -> str:
    """Draw the picture as SVG: readable in light and dark, its text as text."""
    rates = [f for f in figures if f.unit == "interactions/s" and f.what.startswith("backlog of ")]
    barred = [f for f in figures if f.bar]
    middle = TOP + ROW * len(rates) + 40
    height = middle + TOP + ROW * len(barred) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-label="Benchmarks: drain rates, and figures against their bars">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        *_rates(rates),
        *_barred(barred, middle),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rates(rates: Sequence[Figure]) -> Iterator[str]:
    yield _text(LEFT, 32, "A backlog drained: interactions a second", "title")
    most = max((f.value for f in rates), default=1)
    for row, figure in enumerate(rates):
        name = figure.what.partition(" drained by ")[2]
        kind = "own" if name.startswith("this project") else "other"
        yield from _row(TOP + ROW * row, name, figure.value / most, f"{figure.value:,.0f}", kind)


def _barred(barred: Sequence[Figure], top: int) -> Iterator[str]:
    yield _text(
        LEFT,
        top + 16,
        "Each figure against its bar: the dashed line; right of it is better (logarithmic)",
        "title",
    )
    start = top + TOP - 16
    line = LEFT + SPAN * _place(1)
    yield f'<line class="line" x1="{line:.0f}" y1="{start}" x2="{line:.0f}" y2="{start + ROW * len(barred) - 6}"/>'
    for row, figure in enumerate(barred):
        ahead = _ahead(figure)
        limit = f"{'≥' if figure.least else '≤'} {number(figure.bar or 0)}"
        value = f"{number(figure.value)} {figure.unit} ({limit}{'' if figure.held else ', missed'})"
        kind = "own" if figure.held else "short"
        yield from _row(start + ROW * row, figure.what, _place(ahead), value, kind, line)


def _ahead(figure: Figure) -> float:
    """Say how many times better than its bar a figure is."""
    value, bar = max(figure.value, 1e-9), figure.bar or 1
    return value / bar if figure.least else bar / value


def _place(ahead: float) -> float:
    """Place it on a logarithmic scale from 0 to 1."""
    low, high = math.log(LEAST_SHOWN), math.log(MOST_SHOWN)
    return (math.log(min(max(ahead, LEAST_SHOWN * 1.02), MOST_SHOWN)) - low) / (high - low)


def _row(y: float, name: str, share: float, value: str, kind: str, line: float = 0.0) -> Iterator[str]:
    width = max(2.0, SPAN * share)
    yield _text(LEFT, y + 10, name, "quiet")
    yield f'<rect class="{kind}" x="{LEFT}" y="{y + 15}" width="{width:.1f}" height="14" rx="2"/>'
    yield _text(max(LEFT + width, line) + 8, y + 26, value, "value")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'
