"""Warm-up: the learning rate rises to its value over the first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.learning_rate.scaled import scale_steps
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Warmup(Treatment):
    """A linear ramp over the first `steps` steps, on top of the program's own schedule."""

    name = "learning_rate.warmup"
    why = "the first steps are short, while the loss is steep and the optimizer knows little yet"
    guarantee = "step t has (t + 1) / steps of its learning rate, and all of it from `steps` on"
    formula = "lr_t <- lr_t min(1, (t + 1) / steps), t = 0, 1, ..."
    source = "Goyal et al. 2017, section 2.2 (gradual warmup)"
    limits = (
        "with a rate that is too high for good: it diverges when the ramp ends",
        "with an initialisation that explodes or vanishes over depth",
        "with single bad batches later on",
    )
    cost = "the progress of about half of its steps"
    defaults: ClassVar[Mapping[str, Any]] = {"steps": 100}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        steps = self.parameters["steps"]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"expected steps to be a whole number above zero, got {steps!r}")

    def apply(self, subject: Subject) -> None:
        """Multiply during each step; each optimizer's own steps are counted, from now on."""
        steps = int(self.parameters["steps"])
        scale_steps(subject, lambda step: min(1.0, (step + 1) / steps))

    def code(self) -> str:
        """Itself as code to paste."""
        steps = self.parameters["steps"]
        return (
            "warmup = torch.optim.lr_scheduler.LambdaLR("
            f"optimizer, lambda t: min(1, (t + 1) / {steps}))"
            "   # warmup.step() after optimizer.step()"
        )
