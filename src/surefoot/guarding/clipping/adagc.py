"""AdaGC (Wang et al. 2025, arXiv 2502.11034): each gradient by an average of its own past norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from surefoot.guarding.clipping.cut import Cut, Gradients, positive
from surefoot.guarding.form import each, keys, number, whole

_BETA, _RELATIVE, _WARMUP = 0.98, 1.05, 100  # of the paper
_FORM = keys(steps=whole, average=each(number))


class AdaGC:
    """||g_i|| is at most 1.05 times the running average (beta 0.98) of its clipped norms.

    Before step 100 all gradients together are clipped to `max_norm` instead, and the average
    begins as the least norm that each has shown.
    """

    name: ClassVar[str] = "adagc"

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = positive("max_norm", max_norm, "the paper's value is 1.0")
        self._steps = 0
        self._average = np.empty(0)

    def cut(self, gradients: Gradients) -> Cut:
        """Of all gradients at first, then of each that has grown."""
        norms = gradients.norms
        if len(self._average) != len(norms):  # a group of parameters was added
            kept, self._average = self._average, np.full(len(norms), np.nan)
            self._average[: len(kept)] = kept[: len(norms)]
        self._steps += 1
        if self._steps < _WARMUP:
            divisor = max(1.0, gradients.norm / self.max_norm)
            self._average = np.fmin(self._average, np.where(norms > 0, norms / divisor, np.nan))
            return Cut(divisor)
        limits = _RELATIVE * self._average
        clipped = np.fmin(norms, limits)
        seen = ~np.isnan(norms)
        fresh = seen & ~(self._average > 0)
        averaged = _BETA * self._average + (1 - _BETA) * clipped
        self._average = np.where(fresh, norms, np.where(seen, averaged, self._average))
        beyond = np.flatnonzero(seen & ~fresh & (norms > limits)).tolist()
        return Cut(divisors={i: float(norms[i] / limits[i]) for i in beyond})

    def state_dict(self) -> dict[str, Any]:
        """The number of steps and the averages."""
        return {"steps": self._steps, "average": self._average.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError, and stays as it is, if it is none."""
        _FORM(state, "")
        self._steps, self._average = int(state["steps"]), np.array(state["average"], dtype=float)
