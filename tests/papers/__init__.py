"""Published and theoretical values, reproduced with surefoot's own measurements.

`python -m tests.papers` prints theory, measured and error of every row; the quick rows run in the
tests. A row's theory comes from a paper or a line of algebra, never from surefoot: what the
package computes itself (`surefoot.gain`, the growth of a depth profile, the coherence of the
shattering probe) stands on the measured side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache


class Seen(StrEnum):
    """How well a citation is known.

    CHECKED: the source's own text was read; SECOND_HAND: its value was read in a text about it;
    MEMORY: neither, only confirmed here by measurement; DERIVED: no paper states this number, it
    follows in a few lines from what the named one says.
    """

    CHECKED = "checked"
    SECOND_HAND = "second-hand"
    MEMORY = "from memory"
    DERIVED = "derived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value.

    tolerance: largest absolute error, and `why` it is that; bound: "=" for a value, "<" or ">" for
    a claim that names only a side (then the error is by how much it is missed, and nothing is
    tolerated); quick: two seconds at most, runs in the tests.
    """

    name: str
    source: str
    seen: Seen
    theory: float
    tolerance: float = 0.0
    why: str
    measure: Callable[[], float]
    bound: str = "="
    quick: bool = True

    def error(self, value: float) -> float:
        """How far a measured value is from the theory, infinite if it is no number."""
        if math.isnan(value):
            return math.inf
        beyond = value - self.theory
        return {"=": abs(beyond), "<": max(0.0, beyond), ">": max(0.0, -beyond)}[self.bound]

    def holds(self, value: float) -> bool:
        """Whether a measured value is what the source says, within the tolerance."""
        return self.error(value) <= self.tolerance


@cache
def rows() -> tuple[Row, ...]:
    """The whole table."""
    from tests.papers import (
        clipping,
        controls,
        culprit,
        depth,
        grid,
        shattered,
        time,
        training,
        transformers,
    )

    parts = (depth, shattered, grid, time, culprit, controls, clipping, training, transformers)
    return tuple(row for part in parts for row in part.ROWS)
