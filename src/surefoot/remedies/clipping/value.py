"""Clipping element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.clipping.guarded import CONFLICTS, LIMITS, clip_steps, positive
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment

_GUARD = 1.0  # what the guard's clipping of that name does


class Value(Treatment):
    """Each element of each gradient into [-max_value, max_value]."""

    name = "clipping.value"
    why = "keeps a few large elements from throwing the weights away, and leaves the others"
    guarantee = "no element of a gradient is larger than `max_value`; the direction may change"
    formula = "g_i <- sign(g_i) min(|g_i|, max_value)"
    source = "Mikolov 2012; torch.nn.utils.clip_grad_value_"
    limits = LIMITS
    cost = "one pass over the gradients a step"
    defaults: ClassVar[Mapping[str, Any]] = {"max_value": 1.0}
    conflicts: ClassVar[Mapping[str, Any]] = CONFLICTS

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        self._limit = positive(self, "max_value")

    def apply(self, subject: Subject) -> None:
        """By the guard where its bound is the same, and as torch does it otherwise."""
        if subject.guard is not None and self._limit == _GUARD:
            subject.guarded(clip="value", skip=False)
        else:
            clip_steps(
                subject,
                lambda given, scale: torch.nn.utils.clip_grad_value_(given, self._limit * scale),
            )

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            f"torch.nn.utils.clip_grad_value_(model.parameters(), {self._limit})"
            "   # between backward and step"
        )
