"""Gradients that are gone after every step."""

from __future__ import annotations

import torch

from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class Zero(Treatment):
    """`zero_grad` after every step."""

    name = "gradients.zero"
    why = "so that a step follows its own batch"
    guarantee = "a step's gradient is the sum of the backward passes since the step before"
    formula = "g_t = dL_t/dw instead of dL_1/dw + ... + dL_t/dw"
    source = "torch.optim.Optimizer.zero_grad"
    limits = ("where gradients are added up on purpose across steps",)

    def apply(self, subject: Subject) -> None:
        """Have the gradients of each optimizer taken away once it has stepped."""

        def act(optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)

        subject.after_step(act)

    def code(self) -> str:
        """Itself as code to paste."""
        return "optimizer.zero_grad()   # before loss.backward()"
