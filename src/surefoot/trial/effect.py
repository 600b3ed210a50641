"""The effect of a remedy on the loss, over pairs of runs that differ in nothing else.

Where all losses are positive the effect is the geometric mean of after / before, with the interval
of Student's t on the logarithms of the pairs; otherwise the mean of after - before. A run that was
lost counts with the loss that its network had before it was trained: it has learned nothing. How
far a loss has run away by the last step says nothing, and differs by decades from seed to seed.

Source: Student 1908 (paired t); the quantiles are those of Fisher's table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1 on.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_NORMAL = 1.96
_AWAY = 10.0  # times the first loss: a run that ends higher was lost
# The loss of a run that was lost and had none to begin with: larger than any, and still a number.
NEVER_FINITE = 1e30


@dataclass(frozen=True, slots=True)
class Effect:
    """before, after: typical final losses; value: after / before, or after - before where `ratio`
    is False; low, high: its 95 % interval, None of a single pair; pairs: how many runs of each.
    lost: how many of those before and after had a finite loss neither first nor last; all numbers
    hold `NEVER_FINITE` in its place.
    """

    before: float
    after: float
    value: float
    low: float | None
    high: float | None
    pairs: int
    ratio: bool = True
    lost: tuple[int, int] = (0, 0)

    @property
    def none(self) -> float:
        """The value that stands for no effect."""
        return 1.0 if self.ratio else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dict, of finite numbers; `lost` is no part of the contract."""
        return {name: value for name, value in asdict(self).items() if name != "lost"}


def effect(before: Sequence[float], after: Sequence[float], first: Sequence[float]) -> Effect:
    """The effect over pairs [n] of final losses; first: the losses before the first update.

    Raises ValueError for lists of different or no length.

    >>> e = effect([2.0, 2.2, 2.1], [0.2, 0.24, 0.2], [2.3, 2.3, 2.3])
    >>> round(e.value, 3), round(e.low, 3), round(e.high, 3)
    (0.101, 0.085, 0.12)
    """
    if not before or not len(before) == len(after) == len(first):
        lengths = f"{len(before)}, {len(after)} and {len(first)}"
        raise ValueError(f"expected lists of one length for the pairs, got {lengths}")
    before = [_learned(x, start) for x, start in zip(before, first, strict=True)]
    after = [_learned(x, start) for x, start in zip(after, first, strict=True)]
    ratio = min(*before, *after) > 0
    pairs = list(zip(before, after, strict=True))
    moved = [math.log(b / a) for a, b in pairs] if ratio else [b - a for a, b in pairs]
    mean, half = _mean(moved), _half_width(moved)
    value = math.exp(mean) if ratio else mean
    low = None if half is None else mean - half
    high = None if half is None else mean + half
    if ratio:
        low, high = (None if x is None else math.exp(min(x, 700.0)) for x in (low, high))
    lost = before.count(NEVER_FINITE), after.count(NEVER_FINITE)
    return Effect(_middle(before), _middle(after), value, low, high, len(pairs), ratio, lost)


def _learned(loss: float, first: float) -> float:
    """The loss, or for a lost run that of the untrained network, where that was any."""
    if not math.isfinite(first):
        return loss if math.isfinite(loss) else NEVER_FINITE
    lost = not math.isfinite(loss) or loss > _AWAY * first > 0
    return first if lost else loss


def _half_width(values: Sequence[float]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    mean = _mean(values)
    variance = sum((x - mean) ** 2 for x in values) / (n - 1)
    t = _T95[n - 2] if n - 2 < len(_T95) else _NORMAL
    return t * math.sqrt(variance / n)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
