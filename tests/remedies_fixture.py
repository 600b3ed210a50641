"""Small trainings on which remedies are tried, and the same written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import surefoot
from surefoot.remedies import TREATMENTS, FirstCall, Subject

Make = Callable[[Any], torch.optim.Optimizer]
BATCHES, ROWS = 12, 16


def perceptron(dtype: torch.dtype = torch.float32, out: int = 1) -> nn.Sequential:
    """Always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, out)).to(dtype)


def batches(
    dtype: torch.dtype = torch.float32, out: int = 1
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Always the same ones."""
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(ROWS, 6, generator=g).to(dtype), torch.randn(ROWS, out, generator=g).to(dtype))
        for _ in range(BATCHES)
    ]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: list[tuple[torch.Tensor, torch.Tensor]],
    *,
    loss: Callable[..., torch.Tensor] = nn.functional.mse_loss,
    scheduler: Any = None,
    before: Callable[[], Any] = lambda: None,
    zero: bool = True,
    cast: torch.dtype | None = None,
) -> None:
    """The usual loop. before: called between backward and step; cast: for autocast."""
    for x, y in data:
        if zero:
            optimizer.zero_grad()
        with torch.autocast("cpu", dtype=cast, enabled=cast is not None):
            value = loss(model(x), y)
        value.backward()
        before()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether all parameters are bit for bit the same."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(p.dtype == q.dtype and torch.equal(p, q) for p, q in pairs)


def distance(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between two models' parameters."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p.double() - q.double()).abs().max().detach()) for p, q in pairs)


def guard(optimizers: Any, model: Any, **options: Any) -> Callable[[], Any]:
    """What the upper floors give to a subject."""
    return surefoot.guard(optimizers, model, **options).remove


@contextmanager
def remedied(
    name: str,
    models: Any,
    optimizers: Any = (),
    call: FirstCall | None = None,
    guard: Any = None,
    target: str | None = None,
    **parameters: Any,
) -> Iterator[Subject]:
    """A remedy, applied; undone at the end. Random numbers must be where they were."""
    models = models if isinstance(models, list) else [models]
    optimizers = optimizers if isinstance(optimizers, (list, tuple)) else [optimizers]
    subject = Subject(models, optimizers, call, guard)
    state = torch.get_rng_state()
    try:
        TREATMENTS[name](target, **parameters).apply(subject)
        assert torch.equal(state, torch.get_rng_state())
        yield subject
    finally:
        subject.undo()


def twins(make: Make, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any, Any]:
    """(model, its optimizer, another of the same, its optimizer)."""
    one = perceptron(dtype)
    other = copy.deepcopy(one)
    return one, make(one.parameters()), other, make(other.parameters())
