"""Clipping by the norm of each parameter's gradient by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.clipping.guarded import CONFLICTS, LIMITS, clip_steps, positive
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment

_GUARD = 1.0  # what the guard's clipping of that name does


class ParameterNorm(Treatment):
    """Each gradient by a factor of its own, so that its norm is at most `max_norm`."""

    name = "clipping.parameter_norm"
    why = "one layer that explodes does not take the step away from the others"
    guarantee = "the norm of each parameter's gradient is at most `max_norm`"
    formula = "g_p <- g_p min(1, max_norm / (||g_p|| + 1e-6)) for each parameter p"
    source = "Pascanu, Mikolov & Bengio 2013, algorithm 1, for each parameter by itself"
    limits = LIMITS
    cost = "one pass over the gradients a step, two where it clips"
    defaults: ClassVar[Mapping[str, Any]] = {"max_norm": 1.0}
    conflicts: ClassVar[Mapping[str, Any]] = CONFLICTS

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        self._limit = positive(self, "max_norm")

    def apply(self, subject: Subject) -> None:
        """By the guard where its limit is the same, and by torch's function otherwise."""
        if subject.guard is not None and self._limit == _GUARD:
            subject.guarded(clip="parameter_norm", skip=False)
        else:
            clip_steps(subject, self._clip)

    def _clip(self, given: list[torch.Tensor], scale: float) -> None:
        for parameter in given:
            torch.nn.utils.clip_grad_norm_([parameter], self._limit * scale)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "for p in model.parameters(): "
            f"torch.nn.utils.clip_grad_norm_([p], {self._limit})   # between backward and step"
        )
