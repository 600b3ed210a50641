"""The eps of an optimizer that divides by a root of squared gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.optimizer.setting import change, within
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Eps(Treatment):
    """Another eps, in all groups."""

    name = "optimizer.eps"
    why = "eps is there to keep a division finite, and belongs far below the gradients"
    guarantee = "the step is that of the same optimizer with `eps`"
    formula = "step = lr m / (sqrt(v) + eps); with eps above sqrt(v) it is lr m / eps, and tiny"
    source = "Kingma & Ba 2015, algorithm 1"
    limits = (
        "where the gradients are far above eps: it changes nothing then",
        "in float16, where 1e-8 is zero",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"eps": 1e-8}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        within("eps", self.parameters["eps"], 0.0, math.inf)

    def apply(self, subject: Subject) -> None:
        """Set it."""
        change(subject, "eps", lambda before: self.parameters["eps"])

    def code(self) -> str:
        """Itself as code to paste."""
        return f"torch.optim.AdamW(model.parameters(), lr=lr, eps={self.parameters['eps']:g})"
