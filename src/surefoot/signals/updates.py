"""The update-to-weight ratio, as the optimizer really applies it.

Whatever the optimizer does (momentum, Adam's scaling, weight decay, clipping), the ratio is read
from the weights themselves, before and after the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from surefoot.kernels import NONFINITE, NORM, make_pass
from surefoot.kernels.layout import PLAIN_TYPES, flatten
from surefoot.signals.quantity import Axis, Quantity

UPDATE_RATIO = Quantity(
    name="update_ratio",
    axis=Axis.PARAMETER,
    statistics=("ratio",),
    unit="1",
    formula="||w_after - w_before|| / ||w_before||, on at most 4096 evenly spaced elements",
    cost="sampled steps: a gather of at most 16 KiB a tensor before and after the step",
    source="definition; the sample's relative error is about 1/sqrt(2 * 4096) = 1.1 %",
    buckets=256,
)
_ELEMENTS = 4096
_PASS = make_pass(1)


@dataclass(frozen=True, slots=True)
class Weights:
    """Elements of many parameters side by side, on the CPU: `sizes` says how many of each."""

    flat: torch.Tensor
    sizes: list[int]


def sample_weights(parameters: Sequence[torch.Tensor]) -> Weights:
    """Copies of at most 4096 evenly spaced elements of each parameter, in float32 or wider."""
    with torch.no_grad():
        parts = [_elements(p) for p in parameters] or [torch.empty(0)]
        if len({p.device for p in parts}) > 1:
            parts = [p.cpu() for p in parts]
        flat = torch.cat(parts).cpu()
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return Weights(flat, [p.numel() for p in parts[: len(parameters)]])


def _elements(parameter: torch.Tensor) -> torch.Tensor:
    strided = type(parameter) in PLAIN_TYPES and parameter.layout is torch.strided
    if strided and parameter.is_contiguous():  # nearly all: `flatten` asks much more
        flat: torch.Tensor | None = parameter.view(-1)
    else:
        flat, _ = flatten(parameter)
    if flat is None:  # no data: on the meta device
        return torch.empty(0)
    # An odd stride does not fall into step with a power-of-two row length.
    return flat if flat.numel() <= _ELEMENTS else flat[:: (flat.numel() // _ELEMENTS) | 1]


def update_ratios(before: Weights, after: Weights, out: np.ndarray) -> None:
    """Write ||after - before|| / ||before|| into `out` [P].

    Both are what `sample_weights` gave for the same parameters. A parameter that was exactly
    zero gives NaN (no scale to compare with), and so do all if their sizes have changed; a
    non-finite one gives inf.
    """
    count = len(before.sizes)
    out.fill(np.nan)
    if not count or after.sizes != before.sizes:
        return
    moved = after.flat - before.flat
    rows = np.empty((2 * count, 5))
    _PASS([*moved.split(before.sizes), *before.flat.split(before.sizes)], rows)
    move, scale = rows[:count], rows[count:]
    np.divide(move[:, NORM], scale[:, NORM], out=out, where=scale[:, NORM] > 0)
    out[(move[:, NONFINITE] > 0) | (scale[:, NONFINITE] > 0)] = np.inf
