"""Xavier initialisation: a compromise between the variance of the signal and of the gradient."""

from __future__ import annotations

import torch
from torch import nn

from surefoot.remedies.initialization.drawn import backward_gain_of, fans, gain_of, redraw
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


def _gain(function: str | None) -> float:
    """Halfway between what the signal and what the gradient asks for."""
    return (gain_of(function) + backward_gain_of(function)) / 2


def _draw(weight: torch.Tensor, gain: float, module: nn.Module) -> None:
    weight.normal_(std=gain * (2 / sum(fans(module))) ** 0.5)


class XavierNormal(Treatment):
    """Weights from N(0, 2 g^2 / (fan in + fan out)), g halfway between forward and backward."""

    name = "init.xavier_normal"
    why = "balances the variance of the signal and of the gradient"
    guarantee = (
        "where fan_in = fan_out and the layer is linear, the mean square of signal and gradient is "
        "the same at every depth, in the mean over draws; else each misses by about as much"
    )
    formula = (
        "W ~ N(0, 2 g^2 / (fan_in + fan_out)), b = 0, g the mean of 1 / sqrt(E[phi(z)^2]) and "
        "1 / sqrt(E[phi'(z)^2])"
    )
    source = "Glorot & Bengio 2010, equations 12 and 16; the gains: docs/thresholds.md"
    limits = (
        "where the widths change much: neither of the two directions is kept then",
        "with sigmoid, whose two gains (1.85 and 4.72) have no useful middle",
        "beyond some thirty layers without skip connections: the variance is right, but the "
        "representations collapse and the gradients shatter",
        "with batch normalisation, which undoes the scale of the weights",
    )

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew."""
        redraw(subject, self.target, _draw, _gain)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.init.xavier_normal_(layer.weight, gain=1.53)  # tanh; ReLU: 1.414; none: 1\n"
            "nn.init.zeros_(layer.bias)"
        )
