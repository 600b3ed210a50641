"""What is done to each optimizer of a training, and to the gradients that its steps use.

Optimizers that a program makes later are taken along, as `Subject.take` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from surefoot.remedies.subject import Subject

Act = Callable[[torch.optim.Optimizer], Any]


def before_update(subject: Subject, act: Act) -> None:
    """Have something done to the gradients that a step is about to use.

    A step with a closure makes its gradients itself, some of them (LBFGS) several times: then it
    is done after each.
    """

    def hook(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = kwargs.get("closure")
        closure = named if named is not None else args[1] if len(args) > 1 else None
        if closure is None:
            act(optimizer)
            return None

        def then() -> Any:
            loss = closure()
            act(optimizer)
            return loss

        if named is not None:
            return args, {**kwargs, "closure": then}
        return (args[0], then, *args[2:]), kwargs

    def follow(optimizer: torch.optim.Optimizer) -> None:
        subject.on_undo(optimizer.register_step_pre_hook(hook).remove)

    subject.follow(follow)


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """All that an optimizer trains."""
    for group in optimizer.param_groups:
        yield from group["params"]


def divide_gradients(optimizer: torch.optim.Optimizer, divisor: float) -> None:
    """Divide every gradient of an optimizer, in place."""
    with torch.no_grad():
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                parameter.grad.div_(divisor)


def hold_back_unless_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Take the gradients away if one of them is not finite, so that the step changes nothing.

    Returns whether it did. torch's optimizers pass over a parameter without a gradient: neither
    weights nor moments nor step counts change, where a gradient of zero would let them decay.
    """
    held = [p for p in parameters_of(optimizer) if p.grad is not None]
    if all(bool(torch.isfinite(_values(p)).all()) for p in held):
        return False
    for parameter in held:
        parameter.grad = None
    return True


def _values(parameter: nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad
    assert gradient is not None
    return gradient.coalesce().values() if gradient.is_sparse else gradient
