"""Nets for the tests of initialisations, and how one is applied."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.findings import Remedy
from surefoot.remedies import TREATMENTS, FirstCall, Subject, treatment

OWN = ("init.default", "init.rescale")  # have tests of their own
NAMES = sorted(name for name in TREATMENTS if name.startswith("init.") and name not in OWN)


def apply(name: str, net: nn.Module, x: torch.Tensor | None = None, target: str = "") -> Subject:
    subject = Subject([net], call=None if x is None else FirstCall(net, (x,)))
    treatment(Remedy(name, target or None, "", "")).apply(subject)
    return subject


def mlp(widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, dtype=torch.float64), activation()]
    return nn.Sequential(*layers[:-1])


def batch(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Residual(nn.Module):
    """x + w2(relu(w1(x))), with names that say nothing."""

    def __init__(self, width: int = 8, skip: float = 1.0, norm: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(width, 2 * width, dtype=torch.float64)
        self.b = nn.Linear(2 * width, width, dtype=torch.float64)
        self.norm = nn.LayerNorm(width, dtype=torch.float64) if norm else nn.Identity()
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(F.dropout(self.b(F.relu(self.a(x))), 0.1, self.training))
        return x + y if self.skip else y


def stack(blocks: int = 6, **options: float) -> nn.Sequential:
    middle = nn.Sequential(*(Residual(**options) for _ in range(blocks)))  # pyrefly: ignore
    return nn.Sequential(
        nn.Linear(8, 8, dtype=torch.float64), middle, nn.Linear(8, 3, dtype=torch.float64)
    )


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1, dtype=torch.float64)
        self.two = nn.Conv2d(8, 12, 3, padding=1, dtype=torch.float64)
        self.head = nn.Linear(12 * 4, 5, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


def example(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name in ("init.fixup", "init.depth_scaled"):
        return stack(), batch(4, 8)
    return Pictures(), batch(4, 3, 4, 4)
