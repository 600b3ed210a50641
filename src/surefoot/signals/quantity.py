"""What every measured quantity declares of itself: its columns, unit, cost and source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Axis(StrEnum):
    """What the columns of a quantity's row stand for."""

    STEP = "step"  # named scalars of the whole step
    GROUP = "group"  # one column per parameter group of the optimizer
    PARAMETER = "parameter"  # one column per (parameter, statistic)
    BLOCK = "block"  # one column per (watched block, statistic)


@dataclass(slots=True)
class Step:
    """A step that the optimizer is about to take: all that a quantity of every step may read.

    gradients [P, 5]: of each parameter's gradient, what `kernels.STATISTICS` names, NaN where there
    is none; inputs [K, 5]: the same of the tensors that entered the model, `elements` in all;
    loss: None where no backward was seen; groups: the optimizer's parameter groups; scale:
    GradScaler's factor on the loss, None without one; refused: it lets this step not be taken.
    """

    gradients: np.ndarray
    inputs: np.ndarray
    elements: int = 0
    loss: float | None = None
    groups: list[dict[str, Any]] = field(default_factory=list)
    scale: float | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """A row of float32 per step, kept under `name` in the record.

    A PARAMETER quantity of statistics s1..sk has columns p1.s1, p1.s2 ... p2.s1 ...: parameter
    major. `cost` says what it takes and when, in words that `benchmarks/` backs. `buckets` is how
    many steps the rules and figures find in memory, at most: a longer run is thinned to that.
    `measure` fills the row of every step; None for what a probe measures on sampled steps.
    """

    name: str
    axis: Axis
    statistics: tuple[str, ...]
    unit: str
    formula: str
    cost: str
    source: str
    buckets: int
    measure: Callable[[Step, np.ndarray], None] | None = None

    def columns(self, counts: Mapping[Axis, int]) -> int:
        """The row's width, where `counts` says how many groups, parameters and blocks there are."""
        return len(self.statistics) * counts.get(self.axis, 1)
