"""ZClip (Kumar, Owen, Chowdhury & Güra 2025, arXiv 2504.02507): by the norm's running z-score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any, ClassVar

from surefoot.guarding.clipping.cut import Cut, Gradients
from surefoot.guarding.clipping.norm import EPSILON
from surefoot.guarding.form import each, keys, number

_ALPHA, _THRESHOLD, _WARMUP = 0.97, 2.5, 25  # of the paper
_TOO_FAR = 10.0  # times the median of the warm-up: not to be learnt from
_FORM = keys(first=each(number, most=_WARMUP), mean=number, variance=number)


class ZClip:
    """Clip a norm z > 2.5 standard deviations above its running mean m to m + 2.5 s (2.5 / z).

    Mean and variance are exponential averages (alpha 0.97) of the clipped norms, begun from the
    first 25 steps. One thing is added to the paper: what stands ten times above the median of those
    first steps is left out of them, or one spike there would let all later ones pass.
    """

    name: ClassVar[str] = "zclip"

    def __init__(self) -> None:
        self._first: list[float] = []
        self._mean = self._variance = math.nan

    def cut(self, gradients: Gradients) -> Cut:
        """Of all gradients, by one divisor."""
        norm = gradients.norm
        if len(self._first) < _WARMUP:
            self._first.append(norm)
            if len(self._first) == _WARMUP:
                self._begin()
            return Cut()
        limit = self._limit(norm)
        clipped = min(norm, limit)
        self._mean = _ALPHA * self._mean + (1 - _ALPHA) * clipped
        self._variance = _ALPHA * self._variance + (1 - _ALPHA) * (clipped - self._mean) ** 2
        return Cut(max(1.0, (norm + EPSILON) / limit)) if limit > 0.0 else Cut()

    def _begin(self) -> None:
        usual = median(self._first)
        kept = [norm for norm in self._first if norm <= _TOO_FAR * usual]
        self._mean = fmean(kept)
        self._variance = fmean((norm - self._mean) ** 2 for norm in kept)

    def _limit(self, norm: float) -> float:
        deviation = math.sqrt(self._variance)
        z = (norm - self._mean) / (deviation + EPSILON)
        if z <= _THRESHOLD:
            return math.inf
        return self._mean + _THRESHOLD * deviation * (_THRESHOLD / z)

    def state_dict(self) -> dict[str, Any]:
        """The first norms, the mean and the variance."""
        return {"first": list(self._first), "mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError, and stays as it is, if it is none."""
        _FORM(state, "")
        self._first = [float(norm) for norm in state["first"]]
        self._mean, self._variance = float(state["mean"]), float(state["variance"])
