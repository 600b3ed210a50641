"""LeCun's initialisation: normal weights that an affine map's output inherits its scale from."""

from __future__ import annotations

import torch
from torch import nn

from surefoot.remedies.initialization.drawn import fans, redraw
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


def _draw(weight: torch.Tensor, gain: float, module: nn.Module) -> None:
    weight.normal_(std=fans(module)[0] ** -0.5)


class Normal(Treatment):
    """Weights from N(0, 1 / fan in), whatever feeds the layer: what SELU asks for."""

    name = "init.normal"
    why = "keeps the variance through the affine maps alone"
    guarantee = (
        "each layer's output has the mean square of its input, in the mean over draws; with SELU "
        "that is a fixed point which the layers pull towards"
    )
    formula = "W ~ N(0, 1 / fan_in), b = 0"
    source = "LeCun et al. 1998, equation 16; for SELU: Klambauer et al. 2017, section 3"
    limits = (
        "behind ReLU, GELU or SiLU, which halve the variance a layer: use init.kaiming_normal",
        "beyond some thirty layers without skip connections (SELU: the gradient grows by 3.6 % a "
        "layer, x5.9 over fifty)",
        "with batch normalisation, which undoes the scale of the weights",
    )

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew."""
        redraw(subject, self.target, _draw)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)\n"
            "nn.init.zeros_(layer.bias)"
        )
