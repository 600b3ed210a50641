"""The networks of the table, and the digits that some of them are trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import nn


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1400 of scikit-learn's digits [1400, 64], standardised over all pixels, and labels [1400]."""
    x, y = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:1400]
    pixels = torch.tensor(x, dtype=torch.float32)
    return ((pixels - pixels.mean()) / pixels.std())[order], torch.tensor(y)[order]


def plain(
    activation: Callable[[], nn.Module],
    depth: int,
    width: int,
    weights: float,
    biases: float = 0.0,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Layers with weights N(0, weights^2 / width) and biases N(0, biases^2), then a linear head."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=weights / width**0.5)
        nn.init.normal_(linear.bias, std=biases)
        layers += [linear, *([norm(width)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Residual(nn.Module):
    """x + scale W relu(norm(x)), with He's weights W and batch norm or none."""

    def __init__(self, width: int, scale: float = 1.0, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.linear = nn.Linear(width, width, bias=False)
        self.scale = scale
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.linear(F.relu(self.norm(x)))


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] * ctx.factor, None


class GradientScale(nn.Module):
    """The identity, whose backward multiplies the gradient by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Backward.apply(x, self.factor)


class LooksLinear(nn.Module):
    """A layer on [relu(x), relu(-x)] with weights [Q, -Q], Q orthogonal: linear as initialised.

    Balduzzi et al. 2017, the initialisation that they propose.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * inputs, outputs, bias=False)
        with torch.no_grad():
            half = nn.init.orthogonal_(torch.empty(outputs, inputs))
            self.linear.weight.copy_(torch.cat([half, -half], dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([F.relu(x), F.relu(-x)], dim=1))
