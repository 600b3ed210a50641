"""What every measured quantity declares of itself: its columns, unit, cost and source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Axis(StrEnum):
    """What the columns of a quantity's row stand for."""

    STEP = "step"  # named scalars of the whole step
    GROUP = "group"  # one column per parameter group of the optimizer
    PARAMETER = "parameter"  # one column per (parameter, statistic)
    BLOCK = "block"  # one column per (watched block, statistic)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A row of float32 per step, kept under `name` in the record.

    A PARAMETER quantity of statistics s1..sk has columns p1.s1, p1.s2 ... p2.s1 ...: parameter
    major. `cost` says what it takes and when, in words that PERFORMANCE figures back.
    """

    name: str
    axis: Axis
    statistics: tuple[str, ...]
    unit: str
    formula: str
    cost: str
    source: str

    def columns(self, count: int) -> int:
        """The row's width for `count` parameters, groups or blocks (ignored for a STEP axis)."""
        return len(self.statistics) * (1 if self.axis is Axis.STEP else count)
