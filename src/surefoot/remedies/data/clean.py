"""Inputs without NaN and infinities."""

from __future__ import annotations

from typing import Any

import torch

from surefoot.remedies.inputs import Arguments, entrances
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment
from surefoot.remedies.updates import before_update, hold_back_unless_finite


class Clean(Treatment):
    """What is not finite in an input becomes zero; a step that still is not is not taken."""

    name = "data.clean"
    why = "such a sample cannot be learned from"
    guarantee = "the model sees finite numbers only, and no step writes others into its weights"
    formula = "x_i <- 0 where x_i is NaN or infinite"
    source = "IEEE 754: NaN times anything, zero too, is NaN"
    limits = (
        "where what is missing tells something: give it an input of its own",
        "where it is the model that makes what is not finite",
        "where most of the data is not finite: there is little to learn from",
    )
    cost = "one pass over the input a call, and one over the gradients a step"

    def apply(self, subject: Subject) -> None:
        """Clean where the model is called, and hold steps back where there is an optimizer."""
        for module in entrances(subject):
            _clean(subject, module)
        if not subject.optimizers:
            return
        if subject.guard is not None:
            subject.guarded(clip=None, skip=True, rollback=False)
        else:
            before_update(subject, hold_back_unless_finite)

    def code(self) -> str:
        """Itself as code to paste."""
        return "batch = torch.nan_to_num(batch, nan=0.0, posinf=0.0, neginf=0.0)"


def _clean(subject: Subject, module: Any) -> None:
    arguments = Arguments(module)

    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = arguments.changed(args, kwargs, _finite)
        return inner(*args, **kwargs)

    subject.wrap(module, around)


def _finite(name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
