"""How long an optimizer remembers squared gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.optimizer.setting import beta, change, within
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Beta2(Treatment):
    """Another beta2 (RMSprop: alpha), in all groups."""

    name = "optimizer.beta2"
    why = "forgets larger gradients of the past within some twenty steps"
    guarantee = "a squared gradient counts for half of itself after log(0.5) / log(beta2) steps"
    formula = "v <- beta2 v + (1 - beta2) g^2; its memory is 1 / (1 - beta2) steps"
    source = "Wortsman et al. 2023, arXiv 2304.13013 (a stale second moment)"
    limits = (
        "with spikes that no second moment announces, as those of single bad batches",
        "with rare features, whose squared gradients are forgotten between two of them",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"beta2": 0.95}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        within("beta2", self.parameters["beta2"], 0.0, 1.0)

    def apply(self, subject: Subject) -> None:
        """Set it."""
        groups = [g for o in subject.optimizers for g in o.param_groups]
        name = "alpha" if _any(groups, "alpha") and not _any(groups, "betas") else "betas"
        change(subject, name, beta(2, self.parameters["beta2"]))

    def code(self) -> str:
        """Itself as code to paste."""
        value = self.parameters["beta2"]
        return f"torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, {value:g}))"


def _any(groups: list[dict[str, Any]], name: str) -> bool:
    return any(g.get(name) is not None for g in groups)
