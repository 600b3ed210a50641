"""The trainings that the benchmarks measure on, by the name that `--only` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.benchmark.models import gpt, mlp
from surefoot.build import Build


class Residual(nn.Module):
    """The basic block of a residual network for small images."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.c2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.b1, self.b2 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        same = a == b and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(a, b, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, A, H, W] -> [N, B, H / stride, W / stride]."""
        y = F.relu(self.b1(self.c1(x)), inplace=True)
        return F.relu(self.b2(self.c2(y)) + self.skip(x))


def resnet20() -> Build:
    """ResNet-20 on 64 random images of 32 x 32."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for out in (16, 32, 64):
        for k in range(3):
            layers.append(Residual(width, out, 2 if k == 0 and out > 16 else 1))
            width = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    batch = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
    return Build(nn.Sequential(*layers), batch, nn.CrossEntropyLoss())


# (title, what builds it); without an optimizer of their own they are trained by AdamW.
TRAININGS: dict[str, tuple[str, Callable[[], Build]]] = {
    "gpt": ("GPT, 5M parameters", partial(gpt, depth=6, d=256, h=8, length=128)),
    "resnet": ("ResNet-20", resnet20),
    "mlp": ("MLP, 50 x 128", mlp),
}
