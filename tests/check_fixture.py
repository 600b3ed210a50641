"""What the tests of a check share: a real batch and plain networks of any depth."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

CE = nn.CrossEntropyLoss


def digits(count: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    x = torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32)
    return x[:count], torch.tensor(y)[:count]


def mlp(
    depth: int,
    activation: type[nn.Module] = nn.ReLU,
    gain: float | None = None,
    norm: bool = False,
    width: int = 64,
) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(64 if not layers else width, width)]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [activation()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    if gain is not None:
        for layer in (m for m in model if isinstance(m, nn.Linear)):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
    return model


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
