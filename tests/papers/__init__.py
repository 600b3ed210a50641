"""Published and theoretical values, reproduced with surefoot's own measurements.

`python -m tests.papers` prints theory, measured and error of every row; the quick rows run in the
tests. A row's theory comes from a paper or a line of algebra, never from surefoot: what the
package computes itself (`surefoot.gain`) stands on the measured side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One value. tolerance: largest absolute error; quick: a second or two at most."""

    name: str
    source: str
    theory: float
    tolerance: float
    measure: Callable[[], float]
    quick: bool = True


def rows() -> list[Row]:
    """The whole table."""
    from tests.papers import depth, shattered, time

    return [*depth.ROWS, *shattered.ROWS, *time.ROWS]
