"""What watching costs on this machine: the same training with and without it, side by side.

Two copies of a training take their steps in turn, in random order, in one process; half-way they
change places. `benchmark` is what the command of this name measures.
"""

from __future__ import annotations

from surefoot.benchmark.cost import Cost, Ratio, Times, dumps, ratio
from surefoot.benchmark.interleave import (
    PROCESSOR,
    WALL,
    Clock,
    Contender,
    Extent,
    Regime,
    take_turns,
)
from surefoot.benchmark.measurement import (
    Unmeasured,
    benchmark,
    measure,
    one_thread,
    plain,
    watched,
)
from surefoot.benchmark.models import BUILT_IN
from surefoot.benchmark.table import markdown, print_costs

__all__ = [
    "BUILT_IN",
    "PROCESSOR",
    "WALL",
    "Clock",
    "Contender",
    "Cost",
    "Extent",
    "Ratio",
    "Regime",
    "Times",
    "Unmeasured",
    "benchmark",
    "dumps",
    "markdown",
    "measure",
    "one_thread",
    "plain",
    "print_costs",
    "ratio",
    "take_turns",
    "watched",
]
