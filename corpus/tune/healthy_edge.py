"""Trainings at the edge of stability: curvature 2/lr, a loss that is not monotone, and no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus import fast_healthy_case, healthy_case
from corpus.data import Pair, digits, share

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def descent(
    seed: int,
    *,
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
    steps: int,
    act: Callable[[], nn.Module] = nn.Tanh,
    squared: bool = False,
) -> tuple[nn.Module, Pair, Loss, list[float]]:
    """Full-batch descent on 300 digits; the model, its data, its loss and the losses."""
    torch.manual_seed(seed)
    x, y = (t[:300] for t in digits())
    model = nn.Sequential(nn.Linear(64, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 10))
    made = optimizer(model.parameters())
    target = F.one_hot(y, 10).float() if squared else y
    loss: Loss = F.mse_loss if squared else F.cross_entropy
    losses = []
    for _ in range(steps):
        made.zero_grad()
        value = loss(model(x), target)
        value.backward()
        made.step()
        losses.append(float(value.detach()))
    return model, (x, target), loss, losses


def sharpness(model: nn.Module, pair: Pair, loss: Loss, rounds: int = 40) -> float:
    """Largest eigenvalue of the loss's Hessian, by power iteration."""
    p = list(model.parameters())
    g = torch.autograd.grad(loss(model(pair[0]), pair[1]), p, create_graph=True)
    v = [torch.randn_like(t) for t in p]
    top = 0.0
    for _ in range(rounds):
        norm = float(sum((t * t).sum() for t in v)) ** 0.5
        v = [t / norm for t in v]
        h = torch.autograd.grad(g, p, v, retain_graph=True)
        top, v = float(sum((a * b).sum() for a, b in zip(h, v, strict=True))), list(h)
    return top


def score(model: nn.Module, pair: Pair) -> float:
    """The loss on what it was trained on, as a share of the trivial predictor's."""
    x, y = pair
    with torch.no_grad():
        if y.is_floating_point():
            return float(F.mse_loss(model(x), y) / y.var(0).mean())
    return share(model, x, y)


def _sgd(lr: float, **more: Any) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
    return lambda p: torch.optim.SGD(p, lr=lr, **more)


@fast_healthy_case
def edge_squared_tanh(seed: int) -> float:
    """Squared error: the curvature rises to 2/lr and hovers there, and the loss jumps about."""
    model, pair, *_ = descent(seed, optimizer=_sgd(2.0), steps=600, squared=True)
    return score(model, pair)


@healthy_case
def edge_cross_entropy_tanh(seed: int) -> float:
    """Cross-entropy, with steps that start above the edge."""
    model, pair, *_ = descent(seed, optimizer=_sgd(1.0), steps=300)
    return score(model, pair)


@healthy_case
def edge_relu(seed: int) -> float:
    """The same with ReLU, whose curvature jumps."""
    model, pair, *_ = descent(seed, optimizer=_sgd(0.5), steps=300, act=nn.ReLU)
    return score(model, pair)


@healthy_case
def edge_momentum(seed: int) -> float:
    """With momentum the edge lies at (2 + 2 beta)/lr."""
    model, pair, *_ = descent(seed, optimizer=_sgd(1.5, momentum=0.5), steps=800, squared=True)
    return score(model, pair)


@healthy_case
def edge_adam(seed: int) -> float:
    """Full-batch Adam hovers at its own preconditioned edge."""
    model, pair, *_ = descent(seed, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2), steps=400)
    return score(model, pair)
