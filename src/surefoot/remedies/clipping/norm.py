"""Clipping by the norm of all gradients together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.clipping.guarded import CONFLICTS, LIMITS, clip_steps, positive
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Norm(Treatment):
    """All gradients by one factor, so that their norm is at most `max_norm`."""

    name = "clipping.norm"
    why = "keeps one large gradient from throwing the weights away"
    guarantee = "the norm of all gradients together is at most `max_norm`; their direction stays"
    formula = "g <- g min(1, max_norm / (||g|| + 1e-6))"
    source = "Pascanu, Mikolov & Bengio 2013, algorithm 1"
    limits = LIMITS
    cost = "one pass over the gradients a step, two where it clips"
    defaults: ClassVar[Mapping[str, Any]] = {"max_norm": 1.0}
    conflicts: ClassVar[Mapping[str, Any]] = CONFLICTS

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        self._limit = positive(self, "max_norm")

    def apply(self, subject: Subject) -> None:
        """By the guard, which leaves alone what is not finite; without one as torch does it."""
        if subject.guard is not None:
            subject.guarded(clip=self._limit, skip=False)
        else:
            clip_steps(
                subject,
                lambda given, scale: torch.nn.utils.clip_grad_norm_(given, self._limit * scale),
            )

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), {self._limit})"
            "   # between backward and step"
        )
