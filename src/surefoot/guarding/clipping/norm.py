"""Clipping by the norm of all gradients together (Pascanu, Mikolov & Bengio 2013, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar

from surefoot.guarding.clipping.cut import Cut, Gradients, Stateless, positive

EPSILON = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to a norm before it divides


class Norm(Stateless):
    """Scale all gradients so that their norm, as one vector, is at most `max_norm`.

    The direction of the step stays. g <- g / max(1, (||g|| + 1e-6) / max_norm).
    """

    name: ClassVar[str] = "norm"

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = positive("max_norm", max_norm, "a usual value is 1.0")

    def cut(self, gradients: Gradients) -> Cut:
        """Of all gradients, by one divisor."""
        return Cut(max(1.0, (gradients.norm + EPSILON) / self.max_norm))
