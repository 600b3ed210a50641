"""Networks that start from something fixed: a bank of filters, sines of coordinates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task


class Ridges(nn.Module):
    """Sixteen fixed filters at four angles and a network that reads what they saw."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        at = torch.linspace(-2, 2, 5)
        rows, columns = torch.meshgrid(at, at, indexing="ij")
        bank = []
        for k in range(16):
            angle = torch.tensor(k % 8 * torch.pi / 8)
            line = rows * angle.cos() + columns * angle.sin()
            wave = torch.cos(1.5 * line) if k < 8 else torch.sin(1.5 * line)
            bank.append(wave * torch.exp(-(rows**2 + columns**2) / 4))
        self.filters: torch.Tensor
        self.register_buffer("filters", torch.stack(bank)[:, None] / 4)
        self.mlp = nn.Sequential(nn.Linear(16 * 16, width), nn.ReLU(), nn.Linear(width, task.out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = F.conv2d(x.mean(1, keepdim=True), self.filters, padding=2).abs()
        return self.mlp(F.adaptive_avg_pool2d(seen, 4).flatten(1))


def ridges(width: int = 64) -> Build:
    """A frozen bank of filters and an mlp."""
    return lambda task: Ridges(task, width)


def waves_of(width: int = 48, first: float = 12.0, depth: int = 2) -> Build:
    """Coordinates through sines: layers.i and last, weights drawn as they must be for sines."""

    class Sines(nn.Module):
        def __init__(self, task: Task) -> None:
            super().__init__()
            sizes = [task.x.shape[1]] + [width] * depth
            self.layers = nn.ModuleList(nn.Linear(s, width) for s in sizes)
            self.last = nn.Linear(width, task.out)
            with torch.no_grad():
                for i, layer in enumerate(self.layers):
                    bound = 1 / sizes[i] if i == 0 else (6 / width) ** 0.5 / first
                    layer.weight.uniform_(-bound, bound)  # type: ignore[operator]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.sin(first * layer(x))
            return self.last(x)

    return Sines
