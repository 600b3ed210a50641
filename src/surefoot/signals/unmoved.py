"""How much of a parameter a step leaves exactly where it was: updates that were rounded away.

A weight in bfloat16 has eight bits: an update below 1/512 of it is lost, at every step again,
however many such steps there are.
"""

from __future__ import annotations

import numpy as np

from surefoot.signals.quantity import Axis, Quantity
from surefoot.signals.updates import Weights

UNMOVED = Quantity(
    name="unmoved",
    axis=Axis.PARAMETER,
    statistics=("share",),
    unit="share of the elements",
    formula="share of at most 4096 evenly spaced elements that the step did not change",
    cost="sampled steps, parameters in half precision only: what the update-to-weight ratio has "
    "gathered already",
    source="definition; the sample's standard error is at most 1/(2 sqrt(4096)) = 0.8 %",
    buckets=256,
)


def unmoved_shares(before: Weights, after: Weights) -> np.ndarray:
    """Shares [P] of the elements that are equal; NaN for a parameter without elements.

    Raises ValueError where the two are not of the same parameters.

    >>> import torch
    >>> from surefoot.signals.updates import sample_weights
    >>> w = torch.tensor([1.0, 0.01], dtype=torch.bfloat16)
    >>> unmoved_shares(sample_weights([w]), sample_weights([w + 1e-3])).tolist()
    [0.5]
    """
    if before.sizes != after.sizes:
        raise ValueError(f"expected sizes {before.sizes}, got {after.sizes}")
    same = (before.flat == after.flat).numpy()
    out, end = np.full(len(before.sizes), np.nan), 0
    for i, size in enumerate(before.sizes):
        begin, end = end, end + size
        if size:
            out[i] = same[begin:end].mean()
    return out
