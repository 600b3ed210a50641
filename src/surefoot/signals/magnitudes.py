"""In which octaves the elements of every gradient lie, on sampled steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from surefoot.kernels import make_magnitudes
from surefoot.kernels.magnitudes import OCTAVES, WIDTH
from surefoot.kernels.pieces import is_distributed
from surefoot.signals.quantity import Axis, Quantity

GRADIENT_MAGNITUDE = Quantity(
    name="gradient_magnitude",
    axis=Axis.PARAMETER,
    statistics=("top", *(f"octave_{k}" for k in range(OCTAVES)), "below"),
    unit="top: 1, the binary logarithm of a gradient's; else shares of its elements",
    formula="top: floor(log2 max |g|); octave_k: share of the finite elements with floor(log2 |g|) "
    "= top - k; below: share of those that are smaller yet not zero; the zeros make up the rest to "
    "one. On the whole gradient up to 2048 elements, else on 4 stretches of 512",
    cost="sampled steps: a read of at most 2048 elements of each gradient",
    source="definition; a share's standard error is 1.1 % at most. float16 holds 2^-24 to 2^15",
    buckets=64,
)
_READ = make_magnitudes(1)


def gradient_magnitudes(
    parameters: Sequence[torch.Tensor], scale: float | None = None
) -> np.ndarray:
    """[P, 26]: of each parameter's gradient what GRADIENT_MAGNITUDE names; NaN without one.

    scale: a factor that is on the gradients and not meant. Of a gradient in pieces nothing is told.

    >>> weight = torch.nn.Parameter(torch.zeros(4))
    >>> weight.grad = torch.tensor([1.5, -1.0, 0.25, 0.0])
    >>> gradient_magnitudes([weight])[0, :4].tolist()
    [0.0, 0.5, 0.0, 0.25]
    """
    out = np.empty((len(parameters), WIDTH))
    _READ([None if p.grad is None or is_distributed(p.grad) else p.grad for p in parameters], out)
    if scale:
        out[:, 0] -= math.log2(scale)
    return out
