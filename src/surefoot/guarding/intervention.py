"""Acting on one step of an optimizer: scale its gradients, or let it pass without effect.

With a fused optimizer of torch's nothing is read or written for it: the optimizer takes a divisor
(`grad_scale`) and a flag (`found_inf`) along, and its kernel does the rest on its way. Both are
attributes that stay where they are put, and GradScaler uses the same names: what stood there
before the step stands there again after it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from surefoot.guarding.clipping import Cut
from surefoot.kernels.pieces import is_distributed, piece

# Their fused kernels take both attributes; a subclass may have a step of its own.
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
_ATTRIBUTES = ("grad_scale", "found_inf")
# A single number of float32, as which the divisor reaches every kernel, holds it exactly enough.
_LARGEST = 1e30


class Intervention:
    """What is done to the step under way of one optimizer; `end` undoes what would outlast it."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None  # the attributes, where they were set
        self._withheld: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._groups: list[tuple[dict[str, Any], dict[str, Any]]] = []  # and what stood in them
        self._numbers: dict[tuple[str, torch.device], torch.Tensor] = {}

    def apply(self, optimizer: Any, parameters: list[torch.Tensor], cut: Cut) -> None:
        """Do to the gradients what a clipping wants.

        What holds for all of them the optimizer's kernel does where it can: then they are divided
        when the step has been taken.
        """
        _separate(parameters)
        with torch.no_grad():
            if cut.divisor > 1.0:
                self._divide_all(optimizer, parameters, cut.divisor)
            scale = _scale_of(optimizer) if cut.bounded else 1.0
            for index in cut.bounded:
                if (gradient := parameters[index].grad) is not None:
                    if gradient.is_sparse:  # what stands there twice is one element
                        gradient = parameters[index].grad = gradient.coalesce()
                    stored = gradient._values() if gradient.is_sparse else piece(gradient)
                    stored.clamp_(-cut.bound * scale, cut.bound * scale)
            for index, divisor in cut.divisors.items():
                if (gradient := parameters[index].grad) is not None:
                    stored = gradient if is_distributed(divisor) else piece(gradient)
                    stored.div_(divisor)

    def _divide_all(self, optimizer: Any, parameters: list[torch.Tensor], divisor: float) -> None:
        whole = not any(map(is_distributed, parameters))
        if whole and takes_scale(optimizer) and divisor * _scale_of(optimizer) <= _LARGEST:
            given = getattr(optimizer, "grad_scale", None)
            number = self._number("grad_scale", divisor, _device(parameters))
            self._set(optimizer, "grad_scale", number if given is None else given * number)
            return
        # In parts, since a factor under 1e-38 would have lost its digits in float32.
        parts = max(1, math.ceil(math.log10(divisor) / math.log10(_LARGEST)))
        for device, gradients in _by_device(parameters).items():
            # As a tensor: a bare number would be rounded to the gradients' own type first.
            factor = self._number("factor", divisor ** (-1 / parts), device)
            for _ in range(parts):
                torch._foreach_mul_(gradients, factor)

    def skip(self, optimizer: Any, parameters: list[torch.Tensor]) -> None:
        """Let the step pass without effect on parameters, moments and counts of steps."""
        if takes_scale(optimizer) and not any(map(is_distributed, parameters)):
            self._set(optimizer, "found_inf", self._number("found_inf", 1.0, _device(parameters)))
        else:
            self.withhold(parameters)
            # Some count their steps in the groups, whether or not there is a gradient.
            self._groups = [(g, dict(g)) for g in optimizer.param_groups]

    def withhold(self, parameters: list[torch.Tensor]) -> None:
        """Leave some parameters out of the step: without a gradient an optimizer passes by."""
        for parameter in parameters:
            if parameter.grad is not None:
                self._withheld.append((parameter, parameter.grad))
                parameter.grad = None

    def end(self, optimizer: Any) -> None:
        """Put back what was set or taken away; idempotent."""
        if self._before is not None:
            for name in _ATTRIBUTES:
                if name in self._before:
                    setattr(optimizer, name, self._before[name])
                elif name in vars(optimizer):
                    delattr(optimizer, name)
            self._before = None
        while self._groups:
            group, before = self._groups.pop()
            group.update(before)
        while self._withheld:
            parameter, gradient = self._withheld.pop()
            if parameter.grad is None:
                parameter.grad = gradient

    def _set(self, optimizer: Any, name: str, value: torch.Tensor) -> None:
        if self._before is None:
            self._before = {n: vars(optimizer)[n] for n in _ATTRIBUTES if n in vars(optimizer)}
        setattr(optimizer, name, value)

    def _number(self, name: str, value: float, device: torch.device) -> torch.Tensor:
        """A number where a kernel wants it, made once for a device and filled without waiting."""
        number = self._numbers.get((name, device))
        if number is None:
            number = torch.empty((), dtype=torch.float32, device=device)
            self._numbers[name, device] = number
        return number.fill_(value)


def takes_scale(optimizer: Any) -> bool:
    """Whether the optimizer's kernel divides gradients and holds a step back by itself."""
    return (
        type(optimizer) in FUSED
        and getattr(optimizer, "_step_supports_amp_scaling", False)
        and all(group.get("fused") for group in optimizer.param_groups)
    )


def _device(parameters: list[torch.Tensor]) -> torch.device:
    return next(iter(_by_device(parameters)), torch.device("cpu"))


def _by_device(parameters: list[torch.Tensor]) -> dict[torch.device, list[torch.Tensor]]:
    found: dict[torch.device, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            found.setdefault(parameter.grad.device, []).append(piece(parameter.grad))
    return found


def _scale_of(optimizer: Any) -> float:
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def _separate(parameters: list[torch.Tensor]) -> None:
    """Give each parameter a gradient of its own memory: writing on it is to be seen only once."""
    seen: set[int] = set()
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or gradient.layout is not torch.strided or is_distributed(gradient):
            continue
        shared = id(gradient) in seen
        if shared or (gradient.numel() > 1 and 0 in gradient.stride()):
            parameter.grad = gradient.contiguous().clone()
        seen.add(id(gradient))
