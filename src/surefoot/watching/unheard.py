"""A backward pass that no watch of the process hears: the training alone is told of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surefoot.probes.origin import undefined_in_loss
from surefoot.signals.loss import anatomy
from surefoot.watching.training import Training


def unheard_backward(
    training: Training, loss: torch.Tensor, parameters: Sequence[torch.Tensor]
) -> None:
    """Leave the gradients of the loss in `.grad`, and tell the training of it as a session would.

    Not by `loss.backward()`, which a watch around this one would take for the script's. A parameter
    that the loss does not depend on is left without a gradient.
    """
    training.loss = float(loss.detach())
    if training.wants_anatomy:
        training.anatomy = anatomy(loss).to_json()
        if not torch.isfinite(loss):
            training.anatomy["undefined"] = undefined_in_loss(loss)
    for p in parameters:
        p.grad = None
    training.carried.before_backward()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    training.carried.after_backward()
