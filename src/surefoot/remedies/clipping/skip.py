"""Steps that would do harm are not taken."""

from __future__ import annotations

from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Skip(Treatment):
    """The guard's holding back, without clipping and without rolling back."""

    name = "guard.skip"
    why = "a step that is not taken cannot poison the weights; no clipping survives a NaN"
    guarantee = (
        "after a step that is held back, weights and optimizer state are bit for bit what they were"
    )
    formula = "no step where the loss or a gradient is not finite, or far out of line for this run"
    source = "docs/guard.md; Micikevicius et al. 2018, section 3.2, for float16"
    limits = (
        "with a fault that stays: it holds steps back until its bound, and then halts the training",
        "with a learning rate that is too high: every step does harm then",
        "with an initialisation that explodes or vanishes over depth",
    )
    cost = "one pass over the gradients a step"

    def apply(self, subject: Subject) -> None:
        """Put the optimizers under a guard that holds steps back and does nothing else."""
        subject.guarded(clip=None, skip=True, rollback=False)

    def code(self) -> str:
        """Itself as code to paste."""
        return "if torch.isfinite(loss): loss.backward(); optimizer.step()"
