"""What a run came to: a table on the terminal, JSON, and the figures in docs/benchmarks.md."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import chart
from benchmarks.figures import Figure, number

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- figures: written by scripts/bench --write -->\n", "<!-- end of figures -->\n"
PACKAGES = "celery kombu redis psycopg httpx msgspec dramatiq procrastinate".split()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmark.

    Attributes:
        date: when it began.
        machine: its processor, cores and memory.
        versions: of what ran.
        rounds: that the medians are of; 0 for a quick run, which is not judged.
        measures: the figures, by measure.
    """

    date: str
    machine: str
    versions: str
    rounds: int
    measures: dict[str, list[Figure]]

    @classmethod
    def here(cls, servers: str, rounds: int) -> Self:
        """Begin a run on this machine."""
        versions = [f"Python {platform.python_version()}", servers]
        versions += [f"{name} {metadata.version(name)}" for name in PACKAGES]
        return cls(f"{datetime.now(UTC):%-d %B %Y}", _machine(), ", ".join(versions), rounds, {})

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what ``as_json`` wrote."""
        told: dict[str, Any] = json.loads(text)
        told["measures"] = {name: [Figure(**f) for f in found] for name, found in told["measures"].items()}
        return cls(**told)

    def as_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @property
    def figures(self) -> list[Figure]:
        """All figures."""
        return [figure for found in self.measures.values() for figure in found]

    @property
    def held(self) -> bool:
        """Whether every bar is held; a quick run is not judged."""
        return not self.rounds or all(figure.held for figure in self.figures)


def bar(figure: Figure) -> str:
    """Write a bar, such as ``≥ 60``."""
    return "" if figure.bar is None else f"{'≥' if figure.least else '≤'} {number(figure.bar)}"


def mark(figure: Figure, *, judged: bool) -> str:
    """Write whether the bar is held; nothing where there is none to hold."""
    return "" if figure.bar is None or not judged else "✓" if figure.held else "✗"


def show(title: str, figures: Sequence[Figure], *, judged: bool) -> None:
    """Print a measure's figures as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for name in ("value", "unit", "bar", "held"):
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    for figure in figures:
        cells = (number(figure.value), figure.unit, bar(figure), mark(figure, judged=judged))
        table.add_row(figure.what, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def markdown(run: Run) -> str:
    """Write the run as it stands in docs/benchmarks.md."""
    judged = run.rounds > 0
    how = f"medians of {run.rounds} rounds" if judged else "a quick run, not judged"
    lines = [f"{run.date}, {run.machine}; {how}.", f"{run.versions}.", ""]
    lines += ["![How fast, and how far from each bar](benchmarks.svg)", ""]
    lines += ["| what | value | bar | held |", "| --- | --- | --- | --- |"]
    for figure in run.figures:
        value = f"{number(figure.value)} {figure.unit}"
        lines.append(f"| {figure.what} | {value} | {bar(figure)} | {mark(figure, judged=judged)} |")
    return "\n".join(lines) + "\n"


def write(run: Run) -> None:
    """Put the run into docs/benchmarks.md, and draw its picture."""
    path = DOCS / "benchmarks.md"
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{markdown(run)}\n{END}{after}")
    (DOCS / "benchmarks.svg").write_text(chart.draw(run.figures))


def _machine() -> str:
    cores = psutil.cpu_count()
    return f"{_processor()}, {cores} core{'s' * (cores != 1)}, {psutil.virtual_memory().total / 2**30:.0f} GB of memory"


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
