"""What is compared of two arms: the losses step by step, and the gauges of the first step."""

from __future__ import annotations

import math

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.gauges import gauges

_POINTS = 400
_LOST = 1e38  # the record keeps an infinite loss as the largest number of float32


def losses_of(case: Case) -> list[tuple[int, float]]:
    """(step, loss) of at most 400 steps; infinite where it was not finite."""
    series = case.get("loss")
    every = max(1, math.ceil(len(series) / _POINTS))
    rows = zip(series.steps.tolist(), series.last[:, 0].tolist(), strict=True)
    kept = [(int(s), x if abs(x) < _LOST else math.inf) for s, x in rows if x == x]
    # The last steps are kept all: the end is what is compared.
    return [row for k, row in enumerate(kept) if k % every == 0 or k >= len(kept) - _POINTS // 10]


def gauges_of(case: Case) -> dict[str, float]:
    """The gauges that are numbers, by name."""
    return {
        e.quantity.strip(): float(e.value)
        for e in gauges(case)
        if isinstance(e.value, (int, float)) and not isinstance(e.value, bool)
    }
