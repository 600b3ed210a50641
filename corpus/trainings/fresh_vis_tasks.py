"""Drawn shapes, spirals, noisy waves, lifetimes, digits with properties: tasks by formula."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F

from corpus.trainings.tasks import Loss, Task, digits, table


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def _shapes(side: int, count: int) -> tuple[torch.Tensor, ...]:
    """Images [N, 1, S, S], kinds [N], masks [N, 1, S, S], middle and size from 0 to 1 [N, 3]."""
    g = _dice(21)
    kind = torch.randint(4, (count,), generator=g)
    size = 0.15 + 0.15 * torch.rand(count, generator=g)
    at = 0.3 + 0.4 * torch.rand(count, 2, generator=g)
    line = (torch.arange(side) + 0.5) / side
    dy = line[None, :, None] - at[:, 0, None, None]
    dx = line[None, None, :] - at[:, 1, None, None]
    s = size[:, None, None]
    disc = dx.square() + dy.square() < s.square()
    box = torch.maximum(dx.abs(), dy.abs()) < s * 0.85
    cross = box & (torch.minimum(dx.abs(), dy.abs()) < s / 3)
    wedge = (dy.abs() < s) & (dx.abs() < (dy + s) / 2)
    mask = torch.stack([disc, box, cross, wedge], 1)[torch.arange(count), kind][:, None].float()
    ink = 0.5 + 0.5 * torch.rand(count, 1, 1, 1, generator=g)
    x = ink * mask + 0.15 * torch.randn(count, 1, side, side, generator=g)
    return x, kind, mask, torch.cat([at, size[:, None]], 1)


def shapes(side: int = 16, count: int = 900, metric: str = "entropy") -> Task:
    """Discs, boxes, crosses and triangles on noisy paper."""
    x, kind, _, _ = _shapes(side, count)
    return Task((x - x.mean()) / x.std(), kind, F.cross_entropy, 4, metric)


def outlines(
    side: int = 16, count: int = 600, loss: Loss = F.binary_cross_entropy_with_logits
) -> Task:
    """Which pixels belong to the shape."""
    x, _, mask, _ = _shapes(side, count)
    return Task((x - x.mean()) / x.std(), mask, loss, 1, "bits")


def boxes(side: int = 16, count: int = 900, loss: Loss = F.mse_loss, unit: float = 0.0) -> Task:
    """Where the shape is and how large, standardised (or in `unit`s of the image's side)."""
    x, _, _, box = _shapes(side, count)
    y = box / unit if unit else (box - box.mean(0)) / box.std(0)
    return Task((x - x.mean()) / x.std(), y, loss, 3, "squares")


def shape_parts() -> tuple[torch.Tensor, ...]:
    """Images, kinds, masks and boxes together, for nets with several heads."""
    x, kind, mask, box = _shapes(16, 700)
    return (x - x.mean()) / x.std(), kind, mask, (box - box.mean(0)) / box.std(0)


def spirals(arms: int = 3, count: int = 900, turns: float = 1.0, metric: str = "entropy") -> Task:
    """Points in the plane on one of several arms."""
    g = _dice(22)
    y = torch.randint(arms, (count,), generator=g)
    r = 0.1 + 0.9 * torch.rand(count, generator=g)
    a = 2 * math.pi * (y / arms + turns * r) + 0.15 * torch.randn(count, generator=g)
    x = torch.stack([r * a.cos(), r * a.sin()], 1)
    return Task(x / x.std(), y, F.cross_entropy, arms, metric)


def friedman(count: int = 800, noise: float = 0.3, loss: Loss = F.mse_loss) -> Task:
    """Friedman's first function of ten numbers, five of them idle; the answer standardised."""
    g = _dice(23)
    x = torch.rand(count, 10, generator=g)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2
    y = y + 10 * x[:, 3] + 5 * x[:, 4] + noise * torch.randn(count, generator=g)
    return Task((x - 0.5) * 12**0.5, ((y - y.mean()) / y.std())[:, None], loss, 1, "squares")


def wave(count: int = 700, loss: Loss = F.mse_loss, out: int = 1, hz: float = 1.0) -> Task:
    """A sine whose noise grows from left to right."""
    g = _dice(24)
    x = 4 * torch.rand(count, 1, generator=g) - 2
    y = (hz * math.pi * x).sin() + 0.1 * (x + 2) * torch.randn(count, 1, generator=g)
    return Task(x, y, loss, out, "squares")


def properties(metric: str = "bits", loss: Loss = F.binary_cross_entropy_with_logits) -> Task:
    """Six yes-or-no questions on a digit: even, prime, has a loop, above four, curved, a square."""
    plain = digits((1, 8, 8))
    sets = ((0, 2, 4, 6, 8), (2, 3, 5, 7), (0, 6, 8, 9), (5, 6, 7, 8, 9), (2, 3, 5, 6, 8, 9, 0),
            (0, 1, 4, 9))  # fmt: skip
    y = torch.stack([torch.isin(plain.y, torch.tensor(s)) for s in sets], 1).float()
    return Task(plain.x, y, loss, 6, metric)


def grades(levels: int = 4) -> Task:
    """The digit's ink as one of several ordered levels, each answer a stair of yes and no."""
    plain = digits()
    ink = plain.x.sum(1)
    cuts = torch.quantile(ink, torch.linspace(0, 1, levels + 1)[1:-1])
    y = (ink[:, None] > cuts).float()
    return Task(plain.x, y, F.binary_cross_entropy_with_logits, levels - 1, "bits")


@cache
def lifespans() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weibull lifetimes of 600 machines: five readings, the time, and whether it broke by then."""
    g = _dice(25)
    x = torch.randn(600, 5, generator=g)
    risk = 1.2 * x[:, 0] - 0.8 * x[:, 1] + 0.7 * x[:, 2] * x[:, 3]
    time = (-(torch.rand(600, generator=g).log()) * (-risk).exp()).sqrt()
    end = 0.4 + 1.6 * torch.rand(600, generator=g)
    return x, torch.minimum(time, end), (time <= end).float()


def standard_table(name: str, metric: str = "error") -> Task:
    """iris, wine or breast_cancer, judged by the share of wrong labels."""
    return table(name, metric)


def rare_tumour() -> Task:
    """breast_cancer in which only one of eight bad ones was kept."""
    base = table("breast_cancer", "error")
    keep = (base.y == 1) | (torch.arange(len(base.y)) % 8 == 0)
    y = (base.y[keep] == 0).float()[:, None]
    weight = torch.tensor([float((1 - y).sum() / y.sum())])

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(out, y, pos_weight=weight)

    return Task(base.x[keep], y, loss, 1, "bits")
