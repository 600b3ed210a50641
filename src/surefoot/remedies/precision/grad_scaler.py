"""Gradients that pass through the model multiplied, so that float16 can hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils._pytree import tree_map

from surefoot.remedies.clipping.guarded import positive
from surefoot.remedies.inputs import entrances
from surefoot.remedies.precision.cast import HALF, device_of
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment
from surefoot.remedies.updates import before_update, hold_back_unless_finite

_GROWTH, _BACKOFF, _PATIENCE, _LARGEST = 2.0, 0.5, 2000, 2.0**24  # but for the last, GradScaler's


class GradScaler(Treatment):
    """A loss scale inside of the model, and none outside of it.

    Gradients are multiplied where they enter at the model's output, and divided where they leave it
    into a parameter or an input. The program's clipping and logging see true gradients.
    """

    name = "amp.grad_scaler"
    why = "multiplies the loss so that float16 can hold its gradients, and divides before the step"
    guarantee = (
        "a gradient above 6e-8 / scale reaches the weights; a step that overflows is not taken, "
        "and halves the scale"
    )
    formula = "g = (1 / s) d(s L)/dw; s <- s / 2 at an overflow, 2 s after 2000 steps without one"
    source = "Micikevicius et al. 2018, section 3.2; torch.amp.GradScaler"
    limits = (
        "where the forward pass overflows: see dtype.float32 and dtype.bfloat16",
        "where the loss has a part that does not pass through the model's output, as a penalty on "
        "weights: that part is divided by the scale",
        "where the weights themselves are in float16: see amp.master_weights",
    )
    cost = "one pass over the gradients a step"
    defaults: ClassVar[Mapping[str, Any]] = {"scale": 65536.0}
    conflicts: ClassVar[Mapping[str, Any]] = {
        "clipping": "it limits the scaled gradient, unless scaler.unscale_(optimizer) is "
        "called before it",
        "dtype.bfloat16": "bfloat16 needs no loss scale",
        "dtype.float32": "float32 needs no loss scale",
    }

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        self._scale = positive(self, "scale")

    def apply(self, subject: Subject) -> None:
        """Scale inside of the model.

        Raises NotApplicable for weights in float16, whose gradients are too, and which GradScaler
        refuses as well.
        """
        modules = entrances(subject, whole=True)
        parameters = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
        if any(p.dtype in HALF for p in parameters.values()):
            raise NotApplicable("the weights are in a half format themselves: amp.master_weights")
        scale = _Scale(self._scale)
        before_update(subject, scale.judge)
        for parameter in parameters.values():
            subject.on_undo(parameter.register_hook(scale.leave).remove)
        for module in modules:
            subject.wrap(module, _scaled(module, scale))

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            f"scaler = torch.amp.GradScaler(device, init_scale={self._scale:g})"
            "   # scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()"
        )


class _Scale:
    """The scale, and whether the backward pass under way has been multiplied by it."""

    def __init__(self, value: float) -> None:
        self.value = value
        self._within = False
        self._good = 0

    def enter(self, gradient: torch.Tensor) -> torch.Tensor:
        """At the model's output."""
        if not self._within:
            self._within = True
            torch.autograd.Variable._execution_engine.queue_callback(self._over)
        return gradient * self.value

    def leave(self, gradient: torch.Tensor) -> torch.Tensor:
        """At a parameter or an input of the model."""
        return gradient / self.value if self._within else gradient

    def _over(self) -> None:
        self._within = False

    def judge(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a step: hold it back if it is not finite, and adapt the scale."""
        self._within = False  # a backward pass that raised did not come to its end
        if hold_back_unless_finite(optimizer):
            self.value, self._good = max(self.value * _BACKOFF, 1.0), 0
            return
        self._good += 1
        if self._good >= _PATIENCE:
            self.value, self._good = min(self.value * _GROWTH, max(_LARGEST, self.value)), 0


def _scaled(module: nn.Module, scale: _Scale) -> Any:
    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_hooked(scale.leave), (args, kwargs))
        output = inner(*args, **kwargs)
        # In half the loss' own gradient would be too small already when it comes to be multiplied.
        casts = torch.is_autocast_enabled(device_of(module))
        return tree_map(_hooked(scale.enter, wide=casts), output)

    return around


def _hooked(act: Callable[[torch.Tensor], torch.Tensor], wide: bool = False) -> Any:
    def one(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.requires_grad:
            return leaf
        if not torch.is_grad_enabled():
            return leaf
        # Another tensor of the same numbers: the model may use its own further on.
        alias = leaf.float() if wide and leaf.dtype in HALF else leaf.view_as(leaf)
        alias.register_hook(act)
        return alias

    return one
