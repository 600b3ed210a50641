"""How each remedy is written into a source: one small function each, found by the remedy's name."""

from __future__ import annotations

from collections.abc import Callable

from surefoot.findings import Remedy
from surefoot.trial.edits.activations import output, substitute
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.models import initialise
from surefoot.trial.edits.optimizer import learning_rate, settings
from surefoot.trial.edits.residual import residual
from surefoot.trial.edits.steps import autocast, clipping, guard, loss_mean, zero

# A remedy's name, or its group with a star, -> what writes it. A name goes before its group.
EDITS: dict[str, Callable[[Draft, Remedy], None]] = {
    "learning_rate.scale": learning_rate,
    "optimizer.eps": settings,
    "optimizer.beta2": settings,
    "optimizer.weight_decay": settings,
    "optimizer.settings": settings,
    "clipping.norm": clipping,
    "clipping.value": clipping,
    "clipping.parameter_norm": clipping,
    "clipping.*": guard,
    "guard.*": guard,
    "gradients.zero": zero,
    "init.*": initialise,
    "activation.*": substitute,
    "output.logits": output,
    "output.linear": output,
    "output.log_softmax": output,
    "residual.rezero": residual,
    "residual.skip_init": residual,
    "residual.identity": residual,
    "loss.mean": loss_mean,
    "dtype.*": autocast,
}


def edit_of(name: str) -> Callable[[Draft, Remedy], None] | None:
    """What writes a remedy of that name; None where only a person can.

    >>> edit_of("init.orthogonal").__name__, edit_of("input.standardise")
    ('initialise', None)
    """
    return EDITS.get(name) or EDITS.get(f"{name.partition('.')[0]}.*")
