"""What watching costs: the same training with and without surefoot, interleaved in one process.

    python benchmarks/watch_overhead.py [--steps 400] [--only mlp]

Two copies of a model train side by side, one under watch, a step of each in random order, at one
thread. Reported are the median over pairs of the ratio of the two steps' CPU times (what a typical
step costs), and the ratio of the sums (with all that is sampled, and the writer's thread). The run
begins after step 20; the budget that watching gives itself counts the watched copy's time alone.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from surefoot.record import new_folder
from surefoot.watching.session import Session

Step = Callable[[], torch.Tensor]
Copy = tuple[nn.Module, torch.optim.Optimizer, Step]


class Block(nn.Module):
    """A pre-norm transformer block of width `d` with `h` heads."""

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.h, self.n1, self.n2 = h, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, t, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    """About 5M parameters: 6 layers of width 256, 256 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 256)
        self.position = nn.Parameter(0.02 * torch.randn(128, 256))
        self.blocks = nn.ModuleList(Block(256, 8) for _ in range(6))
        self.norm, self.head = nn.LayerNorm(256), nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, T, V]."""
        x = self.embed(x) + self.position[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


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


def resnet20() -> nn.Module:
    """ResNet-20 for 32 x 32 images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for out in (16, 32, 64):
        for k in range(3):
            layers.append(Residual(width, out, 2 if k == 0 and out > 16 else 1))
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp50() -> nn.Module:
    """Fifty layers of width 128."""
    layers: list[nn.Module] = []
    for _ in range(50):
        linear = nn.Linear(128, 128)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def make(name: str) -> Copy:
    """(model, optimizer, one training step) of a case; the same from the same seed."""
    torch.manual_seed(0)
    model = {"gpt": GPT, "resnet": resnet20, "mlp": mlp50}[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    if name == "gpt":
        x = torch.randint(0, 256, (8, 128))
        y = torch.randint(0, 256, (8, 128))
    else:
        x = torch.randn(128, 128) if name == "mlp" else torch.randn(64, 3, 32, 32)
        y = torch.randint(0, 10, (x.shape[0],))

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        out = model(x)
        loss = F.cross_entropy(out.flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def measure(name: str, steps: int) -> tuple[float, float, float]:
    """(median ratio watched / plain of a step's CPU time, its standard error, ratio of the sums).

    Two copies of a model never run equally fast: for each half of the steps another is watched.
    """
    copies = [make(name), make(name)]
    halves = [_half(copies[k], copies[1 - k], steps // 2) for k in (0, 1)]
    medians, variances = [], []
    for watched, plain in halves:
        ratios = np.array(watched) / np.array(plain)
        medians.append(float(np.median(ratios)))
        spread = float(np.subtract(*np.quantile(ratios, [0.75, 0.25]))) / 1.35
        variances.append((1.25 * spread) ** 2 / len(ratios))
    total = [sum(watched) / sum(plain) for watched, plain in halves]
    return (medians[0] + medians[1]) / 2, sum(variances) ** 0.5 / 2, (total[0] * total[1]) ** 0.5


def _half(watched: Copy, plain: Copy, steps: int) -> tuple[list[float], list[float]]:
    """CPU seconds of each step of both, in pairs of random order."""
    times: dict[str, list[float]] = {"watched": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        session = Session(folder=new_folder(Path(folder)), adopt=False)
        session.start()
        training = session.watch(watched[0], watched[1])
        for index in range(steps + 20):
            for kind in random.sample(["watched", "plain"], 2):
                if kind == "plain":
                    session._patches.remove()
                start, wall = time.process_time(), time.perf_counter()
                (plain if kind == "plain" else watched)[2]()
                taken = time.process_time() - start
                if kind == "plain":
                    session._patches.install()
                    away = time.perf_counter() - wall
                    training.budget.set_aside(away)
                if index >= 20:
                    times[kind].append(taken)
        session.stop()
    return times["watched"], times["plain"]


@click.command(help=__doc__)
@click.option("--steps", default=400, show_default=True, help="Of the MLP; others a tenth.")
@click.option("--only", type=click.Choice(["gpt", "resnet", "mlp"]))
def main(steps: int, only: str | None) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    random.seed(0)
    table = Table("training", "pairs", "a typical step", "all in all", "to reach")
    goals = {"gpt": "1 %", "resnet": "1 %", "mlp": "4 %"}
    titles = {"gpt": "GPT, 5M parameters", "resnet": "ResNet-20", "mlp": "MLP, 50 x 128"}
    for name, count in (("gpt", steps // 10), ("resnet", steps // 10), ("mlp", steps)):
        if only in (None, name):
            median, error, total = measure(name, count)
            typical = f"{100 * (median - 1):+.2f} +- {100 * error:.2f} %"
            table.add_row(
                titles[name], str(count), typical, f"{100 * (total - 1):+.2f} %", goals[name]
            )
    Console().print(table)


if __name__ == "__main__":
    main()
