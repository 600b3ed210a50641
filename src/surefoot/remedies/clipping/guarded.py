"""What clippings share: the guard does them where one may be made, and a step hook otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment
from surefoot.remedies.updates import before_update, parameters_of

LIMITS = (
    "with an initialisation that explodes or vanishes over depth, whose direction is bad as well",
    "with a gradient that is not finite: only a step that is not taken helps",
    "with a gradient that vanishes",
)
CONFLICTS = {
    "amp.grad_scaler": "it limits the scaled gradient, unless scaler.unscale_(optimizer) is called "
    "before it",
}


class Clipping(Treatment):
    """A clipping of the guard's, with the settings of its paper."""

    clip: ClassVar[str]  # its name in the guard
    limits = LIMITS
    conflicts: ClassVar[Mapping[str, Any]] = CONFLICTS
    cost = "one pass over the gradients a step"

    def apply(self, subject: Subject) -> None:
        """Put the optimizers under a guard that clips and does nothing else."""
        subject.guarded(clip=self.clip, skip=False)

    def code(self) -> str:
        """Itself as code to paste."""
        return f'guard = surefoot.guard(optimizer, model, clip="{self.clip}", skip=False)'


def positive(treatment: Treatment, name: str) -> float:
    """A parameter that must be a number above zero; raises ValueError."""
    value = treatment.parameters[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"expected {name} above zero, got {value!r}")
    return float(value)


def clip_steps(subject: Subject, clip: Callable[[Any, float], Any]) -> None:
    """Have `clip(parameters, scale)` done to the gradients of each step.

    scale: what GradScaler has multiplied them by, where a fused optimizer is to divide by itself.
    With several optimizers, each by itself.
    """

    def act(optimizer: Any) -> None:
        given = [p for p in parameters_of(optimizer) if p.grad is not None]
        scale = getattr(optimizer, "grad_scale", None)
        with torch.no_grad():
            clip(given, 1.0 if scale is None else float(scale))

    before_update(subject, act)
