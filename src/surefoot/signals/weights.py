"""The size of every parameter, so that one that fades or grows without end is seen."""

from __future__ import annotations

import numpy as np

from surefoot.signals.quantity import Axis, Quantity
from surefoot.signals.updates import Weights

WEIGHT = Quantity(
    name="weight",
    axis=Axis.PARAMETER,
    statistics=("rms",),
    unit="as the parameter",
    formula="root mean square of at most 4096 evenly spaced elements, before the step",
    cost="sampled steps: the elements that the update-to-weight ratio has gathered already",
    source="definition; the sample's relative error is about 1/sqrt(2 * 4096) = 1.1 %",
    buckets=256,
)


def weight_sizes(weights: Weights) -> np.ndarray:
    """Root mean squares [P] of sampled weights; NaN for a parameter without elements.

    >>> import torch
    >>> from surefoot.signals.updates import sample_weights
    >>> weight_sizes(sample_weights([torch.tensor([3.0, 4.0]), torch.zeros(2)])).round(6).tolist()
    [3.535534, 0.0]
    """
    squares = weights.flat.abs().double().numpy() ** 2  # the weights may be complex
    out, end = np.full(len(weights.sizes), np.nan), 0
    for i, size in enumerate(weights.sizes):
        begin, end = end, end + size
        if size:
            out[i] = np.sqrt(squares[begin:end].mean())
    return out
