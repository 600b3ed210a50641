"""The initialisation that PyTorch gives to a module when it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

_ALIKE = 0.25  # of a parameter's size: draws of small tensors scatter


class Default(Treatment):
    """`reset_parameters()` of every module that has one."""

    name = "init.default"
    why = "the scale that the module's authors chose is sound for networks of usual depth"
    guarantee = "weights and biases are drawn as when the module was made"
    formula = "Linear, convolution: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)); Embedding: N(0, 1)"
    source = "torch.nn, reset_parameters of each module"
    limits = (
        "with ReLU beyond some ten layers: the gradient shrinks by 0.41 a layer (3e-20 over fifty)",
        "with tanh likewise, by 0.58 a layer",
        "where the module was never drawn otherwise",
    )

    def apply(self, subject: Subject) -> None:
        """Draw them anew. Raises NotApplicable where no module of the target can."""
        modules = [(m, reset) for _, m in subject.modules(self.target) if (reset := _reset(m))]
        if not modules:
            raise NotApplicable(f"no module at {self.target!r} can draw its own parameters")
        changed = False
        with subject.drawing():
            for module, reset in modules:
                before = _sizes(module)
                for tensor in (*module.parameters(False), *module.buffers(False)):
                    subject.keep(tensor)
                reset()
                pairs = zip(before, _sizes(module), strict=True)
                changed |= any(not abs(a - b) <= _ALIKE * b for a, b in pairs)
        if not changed:
            raise NotApplicable("the weights are as PyTorch draws them already")

    def code(self) -> str:
        """Itself as code to paste."""
        return "layer.reset_parameters()"


def _sizes(module: nn.Module) -> list[float]:
    """The rms of each parameter; a NaN is like nothing."""
    return [float(p.detach().double().square().mean().sqrt()) for p in module.parameters(False)]


def _reset(module: Any) -> Callable[[], Any] | None:
    """A module's own way to draw the parameters that it holds itself, all of them trained."""
    own = list(module.parameters(False))
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset) or not own or not all(p.requires_grad for p in own):
        return None
    return reset
