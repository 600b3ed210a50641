"""The networks of the entries: plain stacks and residual ones, of any depth and activation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from surefoot.lab.task import CLASSES, FEATURES, draw

Kind = Callable[[], nn.Module]
Make = Callable[[], tuple[Any, ...]]  # model, batches, loss function, optimizer


def plain(
    activation: Kind,
    depth: int,
    width: int,
    weights: float,
    biases: float = 0.0,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Layers with weights N(0, weights^2 / fan_in) and biases N(0, biases^2), then a head."""
    widths = [width] * (depth + 1)
    return _sequence(activation, widths, weights, biases, norm, nn.Linear(width, 10))


def linear(units_in: int, units_out: int, weights: float, biases: float = 0.0) -> nn.Linear:
    """A linear layer with weights N(0, weights^2 / units_in) and biases N(0, biases^2)."""
    layer = nn.Linear(units_in, units_out)
    nn.init.normal_(layer.weight, std=weights / units_in**0.5)
    nn.init.normal_(layer.bias, std=biases) if biases else nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    """x + W relu(norm(x)), with He's weights W and batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.activation = nn.ReLU()
        self.linear = linear(width, width, 2**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, width] -> the same."""
        return x + self.linear(self.activation(self.norm(x)))


def classifier(
    activation: Kind,
    depth: int,
    weights: float,
    width: int = 64,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """For the lab's task: `depth` plain hidden layers, whose weights are N(0, weights^2 / fan_in).

    The head is LeCun's whatever the weights are, so that it takes no part in the failure.
    """
    widths = [FEATURES, *[width] * depth]
    return _sequence(activation, widths, weights, 0.0, norm, linear(width, CLASSES, 1.0))


def _sequence(
    activation: Kind,
    widths: list[int],
    weights: float,
    biases: float,
    norm: Callable[[int], nn.Module] | None,
    head: nn.Module,
) -> nn.Sequential:
    """By names that a verdict can speak of: linear1, norm1, activation1 ... head."""
    model = nn.Sequential()
    for k, (a, b) in enumerate(pairwise(widths), 1):
        model.add_module(f"linear{k}", linear(a, b, weights, biases))
        if norm is not None:
            model.add_module(f"norm{k}", norm(b))
        model.add_module(f"activation{k}", activation())
    model.add_module("head", head)
    return model


def skipped(depth: int, width: int = 64) -> nn.Sequential:
    """For the lab's task: a linear layer, `depth` - 1 residual blocks, and a head behind a last
    batch norm and ReLU."""
    model = nn.Sequential()
    model.add_module("linear", linear(FEATURES, width, 1.0))
    for k in range(1, depth):
        model.add_module(f"block{k}", Residual(width))
    model.add_module("norm", nn.BatchNorm1d(width))
    model.add_module("activation", nn.ReLU())
    model.add_module("head", linear(width, CLASSES, 1.0))
    return model


def loader(seed: int, batch: int = 64) -> torch.utils.data.DataLoader[tuple[torch.Tensor, ...]]:
    """The lab's task in batches, in the same order each time."""
    data = torch.utils.data.TensorDataset(*draw(seed))
    return torch.utils.data.DataLoader(data, batch_size=batch)


def training(
    model: Callable[[], nn.Module],
    seed: int,
    rate: float = 0.05,
    loss_fn: Callable[..., torch.Tensor] = nn.functional.cross_entropy,
) -> Make:
    """What makes the parts of a training on the lab's task: SGD on batches of 64."""

    def make() -> tuple[Any, ...]:
        torch.manual_seed(seed)
        made = model()
        return made, loader(seed), loss_fn, torch.optim.SGD(made.parameters(), lr=rate)

    return make
