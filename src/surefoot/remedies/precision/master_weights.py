"""Weights in float32, operations in the half format that the program chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from surefoot.remedies.precision.cast import HALF, converted, device_of, recast
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class MasterWeights(Treatment):
    """`model.float()` in place, and autocast to the former format inside the model."""

    name = "amp.master_weights"
    why = "an optimizer needs the range of float32 for its own state"
    guarantee = "weights, moments and steps are kept and computed in float32"
    formula = "w in float16 keeps 11 bits: a step below w / 2048 is lost; float32 keeps 24"
    source = "Micikevicius et al. 2018, section 3.1"
    limits = (
        "where gradients underflow in float16: see amp.grad_scaler",
        "where a matrix product overflows in float16: see dtype.bfloat16",
    )
    cost = "twice the memory of weights, gradients and optimizer state"
    conflicts: ClassVar[Mapping[str, Any]] = {
        "dtype.float32": "both say in what format the model computes",
        "dtype.bfloat16": "both say in what format the model computes",
    }

    def apply(self, subject: Subject) -> None:
        """Convert in place. Raises NotApplicable where no parameter is in a half format."""
        done = False
        for model in subject.models:
            format_ = _format(model)
            if format_ is not None:
                subject.wrap(model, _lowered(device_of(model), format_))
                recast(subject, [model], HALF, torch.float32)
                done = True
        if not done:
            raise NotApplicable("the weights are in float32 already")

    def code(self) -> str:
        """Itself as code to paste."""
        return "model.float()\nwith torch.autocast(device_type, dtype=torch.float16): ..."


def _format(model: nn.Module) -> torch.dtype | None:
    return next((p.dtype for p in model.parameters() if p.dtype in HALF), None)


def _lowered(device: str, dtype: torch.dtype) -> Any:
    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = converted((args, kwargs), HALF, torch.float32)
        with torch.autocast(device, dtype=dtype):
            return inner(*args, **kwargs)

    return around
