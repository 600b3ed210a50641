"""Clipping by the norm of all gradients together (Pascanu, Mikolov & Bengio 2013, algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from surefoot.kernels import NORM

_EPSILON = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to the norm before it divides


@dataclass(frozen=True, slots=True)
class NormClip:
    """Scale gradients so that their norm, over all of them, is at most `max_norm`.

    >>> import numpy
    >>> rows = numpy.zeros((2, 5))
    >>> rows[:, 0] = 30.0, 40.0
    >>> round(NormClip(5.0).divisor(rows), 6)
    10.0
    """

    max_norm: float

    def __post_init__(self) -> None:
        if not (isinstance(self.max_norm, (int, float)) and 0 < self.max_norm < math.inf):
            raise ValueError(
                f"expected max_norm to be a positive number, got {self.max_norm!r}: "
                "a usual value is 1.0; to clip nothing, do not guard"
            )

    def divisor(self, rows: np.ndarray) -> float:
        """What to divide gradients by, 1 or more, from their statistics [P, 5]."""
        return max(1.0, (total_norm(rows) + _EPSILON) / self.max_norm)


def total_norm(rows: np.ndarray) -> float:
    """The norm of all gradients as one vector, in float64; of their finite elements.

    rows: [P, 5] as `kernels.Pass` fills them, NaN where there is no gradient.
    """
    norms = rows[:, NORM]
    top = float(np.fmax.reduce(norms, initial=0.0))
    if top == 0.0:
        return 0.0
    return top * math.sqrt(float(np.nansum((norms / top) ** 2)))
