"""Clipping element by element, as `torch.nn.utils.clip_grad_value_` does."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from surefoot.guarding.clipping.cut import Cut, Gradients, Stateless, positive
from surefoot.kernels import MAXABS


class Value(Stateless):
    """Bring every element into [-max_value, max_value]: g_i <- sign(g_i) min(|g_i|, max_value).

    The direction of the step changes. Only gradients that hold a larger element are written on.
    """

    name: ClassVar[str] = "value"

    def __init__(self, max_value: float = 1.0) -> None:
        self.max_value = positive("max_value", max_value, "a usual value is 1.0")

    def cut(self, gradients: Gradients) -> Cut:
        """Of the gradients with an element beyond the bound."""
        beyond = np.flatnonzero(gradients.rows[:, MAXABS] > self.max_value)
        return Cut(bound=self.max_value, bounded=tuple(beyond.tolist()))
