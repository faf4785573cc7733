"""A figure: what was measured, and the bar that it has to reach."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a run.

    Attributes:
        what: what was measured, for a reader of the table.
        value: the median of the rounds, unless ``what`` says otherwise.
        unit: of value and bar.
        bar: what it has to reach; None where it is only shown.
        least: the bar is a minimum; otherwise a maximum.
    """

    what: str
    value: float
    unit: str
    bar: float | None = None
    least: bool = True

    @property
    def held(self) -> bool:
        """Whether the bar is reached; true where there is none."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.least else self.value <= self.bar


def median(values: Iterable[float]) -> float:
    """Give the median of a measure's rounds."""
    return statistics.median(values)


def number(value: float) -> str:
    """Write a number with as many digits as say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
