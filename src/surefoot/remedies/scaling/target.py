"""Targets of mean zero and deviation one, seen from within the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.inputs import entrances
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Target(Treatment):
    """The model predicts in units of the targets' deviation, around their mean.

    What it returns is in the targets' own units, so that the program's loss stays what it is.
    `mean` and `std` are numbers, or lists with one for each output.
    """

    name = "target.standardise"
    why = "the model then has to produce numbers of about one, with errors of about one"
    guarantee = (
        "with the squared error, gradients are exactly those of training on (y - mean) / std; for "
        "several outputs too, each by its own deviation"
    )
    formula = "z = f(x) std + mean; dL/df = (dL/dz) / std, since (z - y)^2 = std^2 (f - t)^2"
    source = "the chain rule; Bishop 1995, section 8.2"
    limits = (
        "with classes, which have no scale",
        "with other losses than the squared error it is a standardisation up to a factor: the "
        "absolute error needs none in its gradient, and has one of 1 / std here",
        "where the targets vary over decades: take their logarithm",
    )
    cost = "one pass over the output a call"
    defaults: ClassVar[Mapping[str, Any]] = {"mean": None, "std": None}

    def apply(self, subject: Subject) -> None:
        """Have the output changed. Raises NotApplicable without the targets' mean and deviation."""
        mean, std = self.parameters["mean"], self.parameters["std"]
        if mean is None or std is None:
            raise NotApplicable("it needs the mean and the deviation of the targets")
        shift, scale = _numbers("mean", mean), _numbers("std", std)
        if not bool((scale > 0).all()):
            raise ValueError(f"expected std above zero, got {std!r}")
        modules = entrances(subject, whole=True)
        if subject.call is not None:
            with subject.trying() as again, torch.no_grad():
                _checked(again(), max(shift.numel(), scale.numel()))

        def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
            output = inner(*args, **kwargs)
            if not (isinstance(output, torch.Tensor) and output.is_floating_point()):
                return output
            parts = (t.to(output.device, output.dtype) for t in (shift, scale))
            return _InUnits.apply(output, *parts)

        for module in modules:
            subject.wrap(module, around)

    def code(self) -> str:
        """Itself as code to paste."""
        mean, std = self.parameters["mean"], self.parameters["std"]
        if mean is None or std is None:
            mean, std = "train.mean(0)", "train.std(0)"
        elif not all(isinstance(x, (int, float)) for x in (mean, std)):
            mean, std = f"torch.tensor({mean})", f"torch.tensor({std})"
        return f"target = (target - {mean}) / {std}   # and prediction = output * {std} + {mean}"


class _InUnits(torch.autograd.Function):
    """f std + mean, whose gradient is divided by std where the chain rule multiplies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return output * scale + shift

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (scale,) = ctx.saved_tensors
        return gradients[0] / scale, None, None


def _numbers(name: str, value: Any) -> torch.Tensor:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.tensor(math.nan)
    if numbers.dim() > 1 or not bool(torch.isfinite(numbers).all()):
        raise ValueError(f"expected {name} to be a number or a list of numbers, got {value!r}")
    return numbers


def _checked(output: Any, count: int) -> None:
    if not (isinstance(output, torch.Tensor) and output.is_floating_point()):
        raise NotApplicable(f"the model returns a {type(output).__name__}, not one prediction")
    if count > 1 and (output.dim() == 0 or output.shape[-1] != count):
        raise NotApplicable(f"the model has {tuple(output.shape)} outputs, not {count}")
