"""The decay of the weights at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.optimizer.setting import change, within
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class WeightDecay(Treatment):
    """Another weight decay, in all groups that have one."""

    name = "optimizer.weight_decay"
    why = "weights that decay faster than they learn end at zero"
    guarantee = "a weight without a gradient keeps 1 - lr weight_decay of itself a step (AdamW)"
    formula = "w <- w - lr weight_decay w, beside the step"
    source = "Loshchilov & Hutter 2019, algorithm 2; torch has 0.01"
    limits = (
        "where the weights do not shrink",
        "with optimizers that add it to the gradient (Adam, SGD), it is not the same number",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.01}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        within("weight_decay", self.parameters["weight_decay"], 0.0, math.inf)

    def apply(self, subject: Subject) -> None:
        """Set it; groups that a program leaves without decay stay so where others have some."""
        value = self.parameters["weight_decay"]
        some = any(g.get("weight_decay") for o in subject.optimizers for g in o.param_groups)
        change(subject, "weight_decay", lambda before: value if before or not some else before)

    def code(self) -> str:
        """Itself as code to paste."""
        value = self.parameters["weight_decay"]
        return f"torch.optim.AdamW(model.parameters(), lr=lr, weight_decay={value:g})"
