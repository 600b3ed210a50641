"""Clipping by the norm of each parameter's gradient by itself."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from surefoot.guarding.clipping.cut import Cut, Gradients, Stateless, positive
from surefoot.guarding.clipping.norm import EPSILON


class ParameterNorm(Stateless):
    """Scale each gradient so that its own norm is at most `max_norm`.

    One that explodes does not shrink the step of the others, as it does under `Norm`.
    """

    name: ClassVar[str] = "parameter_norm"

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = positive("max_norm", max_norm, "a usual value is 1.0")

    def cut(self, gradients: Gradients) -> Cut:
        """Of the gradients with a larger norm."""
        divisors = (gradients.norms + EPSILON) / self.max_norm
        return Cut(
            divisors={i: float(divisors[i]) for i in np.flatnonzero(divisors > 1.0).tolist()}
        )
