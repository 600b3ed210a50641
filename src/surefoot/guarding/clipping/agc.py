"""Adaptive gradient clipping (Brock, De, Smith & Simonyan 2021, section 4.1).

Each unit of a layer (a row of its weight matrix, a filter) may have a gradient of at most a share
of its own weights' norm, since that ratio is how much one step of unit length changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from surefoot.guarding.clipping.cut import Cut, Gradients, positive
from surefoot.guarding.form import each, keys, maybe, whole

_LEAST = 1e-3  # a weight norm below it counts as that much (epsilon of the paper)
_FORM = keys(left_alone=maybe(each(whole)))


class AGC:
    """||g_i|| is at most `clipping` max(||w_i||, 1e-3), for each unit i of every parameter.

    Left alone are, besides the head (the last matrix and what comes after it; the paper clips all
    but the final linear layer), parameters that are zero when they are first seen: they have no
    scale of their own, and a limit of 1e-5 would keep a zero-initialised scale from ever growing.
    Sparse gradients are left alone too.
    """

    name: ClassVar[str] = "agc"

    def __init__(self, clipping: float = 0.01) -> None:
        self.clipping = positive("clipping", clipping, "the paper's value is 0.01")
        self._left_alone: set[int] | None = None

    def cut(self, gradients: Gradients) -> Cut:
        """Of the units whose gradient is too large for their weights."""
        with torch.no_grad():
            if self._left_alone is None:
                self._left_alone = _without_scale(gradients.parameters)
                self._left_alone |= _head(gradients.parameters)
            divisors: dict[int, float | torch.Tensor] = {}
            for index, (weight, norm) in enumerate(
                zip(gradients.parameters, gradients.norms.tolist(), strict=True)
            ):
                # Where the whole gradient is within the least limit, so is that of every unit.
                if index in self._left_alone or not norm > self.clipping * _LEAST:
                    continue
                divisor = self._divisor(weight)
                if divisor is not None:
                    divisors[index] = divisor
        return Cut(divisors=divisors)

    def _divisor(self, weight: torch.Tensor) -> torch.Tensor | None:
        """What each unit's gradient is to be divided by; None if no unit's is too large."""
        gradient = weight.grad
        if gradient is None or gradient.layout is not torch.strided:
            return None
        ratio = _units(gradient) / (self.clipping * _units(weight).clamp(min=_LEAST))
        return ratio.clamp(min=1.0) if bool((ratio > 1.0).any()) else None

    def state_dict(self) -> dict[str, Any]:
        """Which parameters are left alone, by their number."""
        return {"left_alone": None if self._left_alone is None else sorted(self._left_alone)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError, and stays as it is, if it is none."""
        _FORM(state, "")
        kept = state["left_alone"]
        self._left_alone = None if kept is None else set(kept)


def _units(tensor: torch.Tensor) -> torch.Tensor:
    """The norm of each unit, of a shape that broadcasts; of a vector or scalar, of the whole."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    if wide.dim() <= 1:
        return torch.linalg.vector_norm(wide)
    return torch.linalg.vector_norm(wide, dim=tuple(range(1, wide.dim())), keepdim=True)


def _without_scale(parameters: list[torch.Tensor]) -> set[int]:
    return {i for i, p in enumerate(parameters) if not bool(p.any())}


def _head(parameters: list[torch.Tensor]) -> set[int]:
    """The last matrix and what comes after it; nothing where there is only one matrix."""
    matrices = np.flatnonzero([p.dim() > 1 for p in parameters])
    return set(range(int(matrices[-1]), len(parameters))) if len(matrices) > 1 else set()
