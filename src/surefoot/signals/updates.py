"""The update-to-weight ratio, as the optimizer really applies it.

Whatever the optimizer does (momentum, Adam's scaling, weight decay, clipping), the ratio is read
from the weights themselves, before and after the step.
"""

from __future__ import annotations

import numpy as np
import torch

from surefoot.signals.quantity import Axis, Quantity

UPDATE_RATIO = Quantity(
    name="update_ratio",
    axis=Axis.PARAMETER,
    statistics=("ratio",),
    unit="1",
    formula="||w_after - w_before|| / ||w_before||, on at most 16384 evenly spaced elements",
    cost="sampled steps: a gather of at most 64 KiB a tensor before and after the step",
    source="definition; the sample's relative error is about 1/sqrt(2 * 16384) = 0.6 %",
)
_SAMPLE = 16384


def sample_weights(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copies of at most 16384 evenly spaced elements of each parameter, in float32 or wider."""
    with torch.no_grad():
        return [_sample(p) for p in parameters]


def _sample(parameter: torch.Tensor) -> torch.Tensor:
    p = parameter.detach()
    p = p.to_local() if hasattr(p, "to_local") else p
    if p.numel() > _SAMPLE:
        # An odd stride does not fall into step with a power-of-two row length.
        p = p.reshape(-1)[:: (p.numel() // _SAMPLE) | 1]
    return p.to(torch.promote_types(p.dtype, torch.float32), copy=True)


def update_ratios(
    before: list[torch.Tensor], parameters: list[torch.Tensor], out: np.ndarray
) -> None:
    """Write ||after - before|| / ||before|| into `out` [P].

    `before` is what `sample_weights` gave for the same parameters. A parameter that was exactly
    zero gives NaN (no scale to compare with); a non-finite one gives inf.
    """
    if not before:
        return
    with torch.no_grad():
        after = sample_weights(parameters)
        # float64 norms: float32 squares underflow for updates under 1e-19.
        moved = [
            torch.linalg.vector_norm(a - b, dtype=torch.float64)
            for a, b in zip(after, before, strict=True)
        ]
        scale = [torch.linalg.vector_norm(b, dtype=torch.float64) for b in before]
        both = torch.stack([torch.stack(moved), torch.stack(scale)]).cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = both[0] / both[1]
    ratio[both[1] == 0] = np.nan
    ratio[~np.isfinite(both).all(0)] = np.inf
    out[:] = ratio
