"""Gradients of a mean where the program's loss is a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.clipping.guarded import positive
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment
from surefoot.remedies.updates import before_update, divide_gradients


class Mean(Treatment):
    """All gradients divided by `factor`, the number of terms in the sum."""

    name = "loss.mean"
    why = "the gradient's size then does not depend on the batch size"
    guarantee = "each step is the one that loss / factor would give"
    formula = "g <- g / factor; d(L / n)/dw = (dL/dw) / n"
    source = "linearity of the gradient"
    limits = (
        "with optimizers whose step does not depend on the gradient's scale (Adam, RMSprop)",
        "in a program that clips between backward and step: it clips the sum's gradient",
        "where gradients are added up across steps: what is divided is divided again",
    )
    cost = "one pass over the gradients a step"
    defaults: ClassVar[Mapping[str, Any]] = {"factor": None}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        if self.parameters["factor"] is not None:
            positive(self, "factor")

    def apply(self, subject: Subject) -> None:
        """Divide before each step. Raises NotApplicable without a factor."""
        if self.parameters["factor"] is None:
            raise NotApplicable("it needs the number of terms that the loss adds up")
        factor = float(self.parameters["factor"])
        before_update(subject, lambda optimizer: divide_gradients(optimizer, factor))

    def code(self) -> str:
        """Itself as code to paste."""
        if self.parameters["factor"] is None:
            return "loss = F.cross_entropy(output, target, reduction='mean')"
        return f"loss = loss / {self.parameters['factor']:g}   # or reduction='mean'"
