"""What watching costs, as a ratio: the arithmetic on step times that were taken side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from surefoot.environment import describe

SCHEMA = 1
_LONG = 0.1  # seconds of a step
# A step of some milliseconds pays as much for each tensor as a long one: merely reading its
# gradients is two per cent of it.
_TARGET_LONG, _TARGET_SHORT = 1.01, 1.04


@dataclass(frozen=True, slots=True)
class Times:
    """Of one turn of interleaved steps.

    steps: seconds of each contender's steps, one a round, by its name; others: processor seconds
    of the process's other threads meanwhile, where the clock tells.
    """

    steps: dict[str, list[float]]
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """The time of a contender's step over that of another's in the same round.

    typical: the median, the mean of those of all turns; error: its standard error; low, high: the
    quartiles of all rounds; total: the ratio of the sums; rounds: how many.
    """

    typical: float
    error: float
    low: float
    high: float
    total: float
    rounds: int


def ratio(turns: Sequence[Times], name: str, base: str, threads: bool = False) -> Ratio:
    """Compare two contenders; threads: the process's other threads work for the first.

    The copies of a model never run equally fast. In equal turns the contenders have changed
    places, so the turns' medians are averaged and their rounds not thrown together.

    >>> there = Times({"watched": [1.1, 1.2, 1.3], "plain": [1.0, 1.0, 1.0]})
    >>> back = Times({"watched": [0.9, 1.0, 1.1], "plain": [1.0, 1.0, 1.0]})
    >>> round(ratio([there, back], "watched", "plain").typical, 6)
    1.1
    """
    ratios = [np.array(t.steps[name]) / np.array(t.steps[base]) for t in turns]
    extra = [t.others if threads else 0.0 for t in turns]
    sums = [
        (sum(t.steps[name]) + more) / sum(t.steps[base])
        for t, more in zip(turns, extra, strict=True)
    ]
    low, high = np.quantile(np.concatenate(ratios), [0.25, 0.75])
    return Ratio(
        typical=float(np.mean([np.median(r) for r in ratios])),
        error=float(np.sqrt(sum(_variance(r) for r in ratios)) / len(ratios)),
        low=float(low),
        high=float(high),
        total=float(np.exp(np.mean(np.log(sums)))),
        rounds=sum(len(r) for r in ratios),
    )


def _variance(values: np.ndarray) -> float:
    """Of the median, from the quartiles, as for normal values: steps have outliers."""
    spread = float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.349
    return np.pi / 2 * spread**2 / len(values)


@dataclass(frozen=True, slots=True)
class Cost:
    """What watching one training cost.

    training: what is trained; tensors, parameters: how many the optimizer holds; step: seconds of
    a step that is not watched (median); clock: what was counted, "processor" or "wall" time;
    kernel_reason: why the kernel is not the fastest, None where it is.
    """

    training: str
    tensors: int
    parameters: int
    optimizer: str
    device: str
    threads: int
    kernel: str
    kernel_reason: str | None
    clock: str
    step: float
    ratio: Ratio

    @property
    def target(self) -> float:
        """What surefoot means to stay within at a step of this length."""
        return _TARGET_LONG if self.step >= _LONG else _TARGET_SHORT

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "target": self.target}


def dumps(costs: Sequence[Cost]) -> str:
    """The costs, and what they were measured on, as JSON."""
    known = describe()
    environment = {name: known[name] for name in ("python", "torch", "platform", "started")}
    data = {
        "surefoot": known["surefoot"],
        "schema": SCHEMA,
        "costs": [cost.to_json() for cost in costs],
        "environment": environment,
    }
    return json.dumps(data, indent=2, allow_nan=False)
