"""The lab's network: a multilayer perceptron with the chosen layers, by names that explain it.

Without skip connections a layer is linear, normalisation, activation. With them it is the other way
round, x + linear(activation(normalisation(x))), because an activation at the end of a branch would
only ever add to the sum; the first layer, which changes the width, then is linear alone, and the
head stands behind a normalisation and an activation of its own.

Source: He, Zhang, Ren & Sun 2016, "Identity mappings" (the order inside a block); Hayou et al. 2021
(the factor 1 / sqrt(depth)); Bachlechner et al. 2021 (ReZero).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import skip_init

from surefoot.lab.choices import Choices
from surefoot.lab.initial import draw_weights
from surefoot.lab.task import CLASSES, FEATURES

ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": None,
}


class Layer(nn.Module):
    """linear, norm, activation; parts that were not chosen are None."""

    def __init__(
        self, linear: nn.Linear, norm: nn.Module | None, activation: nn.Module | None
    ) -> None:
        super().__init__()
        self.linear, self.norm, self.activation = linear, norm, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, units in] -> [batch, units out]."""
        return shaped(self.linear(x), self.norm, self.activation)


class SkippedLayer(Layer):
    """x + factor linear(activation(norm(x)))."""

    def __init__(
        self,
        linear: nn.Linear,
        norm: nn.Module | None,
        activation: nn.Module | None,
        factor: float | None,
    ) -> None:
        """factor: None for one that is learned, from 0."""
        super().__init__(linear, norm, activation)
        self.factor = nn.Parameter(torch.zeros(())) if factor is None else factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, units] -> the same."""
        return x + self.factor * self.linear(shaped(x, self.norm, self.activation))


class Network(nn.Module):
    """layers.0 ... layers.(depth - 1), then the head; draws nothing from the process's numbers."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        sizes = [FEATURES, *[choices.width] * choices.depth]
        linears = [_linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(_layer(choices, x, i == 0) for i, x in enumerate(linears))
        skips = choices.skips != "none"
        self.norm = _norm(choices) if skips else None
        self.activation = _activation(choices) if skips else None
        self.head = _linear(choices.width, CLASSES)
        draw_weights(choices, linears, self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, FEATURES] -> scores [batch, CLASSES]."""
        for layer in self.layers:
            x = layer(x)
        return self.head(shaped(x, self.norm, self.activation))


def shaped(x: torch.Tensor, norm: nn.Module | None, activation: nn.Module | None) -> torch.Tensor:
    """x after the normalisation and the activation that there are."""
    x = x if norm is None else norm(x)
    return x if activation is None else activation(x)


def _linear(units_in: int, units_out: int) -> nn.Linear:
    """Its numbers are yet to be drawn: torch would draw them from those of the process."""
    layer = skip_init(nn.Linear, units_in, units_out)
    assert isinstance(layer, nn.Linear)
    return layer


def _layer(choices: Choices, linear: nn.Linear, first: bool) -> Layer:
    if choices.skips == "none":
        return Layer(linear, _norm(choices), _activation(choices))
    if first:
        return Layer(linear, None, None)
    factors = {"residual": 1.0, "scaled": choices.depth**-0.5, "rezero": None}
    return SkippedLayer(linear, _norm(choices), _activation(choices), factors[choices.skips])


def _norm(choices: Choices) -> nn.Module | None:
    kinds: dict[str, type[nn.Module]] = {"batch_norm": nn.BatchNorm1d, "layer_norm": nn.LayerNorm}
    kind = kinds.get(choices.normalization)
    return None if kind is None else kind(choices.width)


def _activation(choices: Choices) -> nn.Module | None:
    kind = ACTIVATIONS[choices.activation]
    return None if kind is None else kind()
