"""What the tests of the outputs share: a small training, and its gradients by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import surefoot

STEPS = 23
WRITTEN = [0, 5, 10, 15, 20, 22]  # every 5, and the last


def build(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Three layers that train, with Adam."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> float:
    """One step of a regression; returns its loss."""
    x = torch.randn(16, 4)
    optimizer.zero_grad()
    loss = factor * (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def norms(model: nn.Module) -> dict[str, float]:
    """The norm of each layer's gradient, in float64 by torch."""
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        own = [p.grad.double().flatten() for p in module.parameters(recurse=False)]
        if own:
            found[name] = torch.cat(own).norm().item()
    return found


def train(output: Callable[[surefoot.Watch], Any], steps: int, seed: int = 0) -> list[float]:
    """A watched training with an output; returns the losses."""
    model, optimizer = build(seed)
    losses = []
    with surefoot.watch(model, optimizer) as watch, output(watch) as out:
        for _ in range(steps):
            losses.append(step(model, optimizer))
            out.log()
    return losses
