"""Kaiming initialisation: the variance of the signal survives every layer."""

from __future__ import annotations

import torch
from torch import nn

from surefoot.remedies.initialization.drawn import fans, redraw
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


def _draw(weight: torch.Tensor, gain: float, module: nn.Module) -> None:
    weight.normal_(std=gain / fans(module)[0] ** 0.5)


class KaimingNormal(Treatment):
    """Weights from N(0, gain^2 / fan in), with the gain of the activation that feeds the layer."""

    name = "init.kaiming_normal"
    why = "keeps the variance through the layers and their activation"
    guarantee = "the mean square of the signal is the same at every depth, in the mean over draws"
    formula = "W ~ N(0, g^2 / fan_in), g^2 = 1 / E[phi(z)^2], b = 0; g = sqrt(2) for ReLU"
    source = "He et al. 2015, equation 10; the gain for any activation: docs/thresholds.md"
    limits = (
        "beyond some thirty layers without skip connections: single draws scatter, and "
        "representations collapse although the variance is right",
        "with batch normalisation, which undoes the scale of the weights",
        "with GELU or SiLU at great depth, where no fixed gain is stable",
    )

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew."""
        redraw(subject, self.target, _draw)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu'); nn.init.zeros_(layer.bias)"
        )
