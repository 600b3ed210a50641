"""Another learning rate: a factor on all that the program and its schedule set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.learning_rate.scaled import scale_steps
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Scale(Treatment):
    """Every learning rate times `factor`, while a step runs."""

    name = "learning_rate.scale"
    why = "a step no longer reaches across the valley, or is long enough to get anywhere"
    guarantee = (
        "each step is the one that the same optimizer makes with `factor` times the learning rate"
    )
    formula = "lr_t <- factor lr_t; plain gradient descent is stable while lr < 2 / sharpness"
    source = "LeCun et al. 1998 (Efficient BackProp); Cohen et al. 2021 (sharpness near 2 / lr)"
    limits = (
        "with single bad batches, which a lower rate only makes slower to forget",
        "with an initialisation that explodes or vanishes over depth, which no rate mends",
        "with a loss or a gradient that is not finite",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"factor": 0.1}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        factor = self.parameters["factor"]
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
            raise ValueError(f"expected factor above zero, got {factor!r}: 0.1 divides by ten")

    def apply(self, subject: Subject) -> None:
        """Multiply during each step."""
        factor = float(self.parameters["factor"])
        scale_steps(subject, lambda step: factor)

    def code(self) -> str:
        """Itself as code to paste."""
        return f"optimizer = ...(model.parameters(), lr={self.parameters['factor']:g} * lr)"
