"""Faults of an optimizer's own state: a memory that is too long, an eps that is too large."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus import faulty_case
from corpus.recipes import Optimizer, adam, adamw, he, mlp, named, sgd

STEPS = 400
HIGH = "exploding|oscillating|nonfinite|stalled"


def rmsprop(lr: float, **options: Any) -> Optimizer:
    return lambda parameters: torch.optim.RMSprop(parameters, lr=lr, **options)


def adagrad(lr: float, **options: Any) -> Optimizer:
    return lambda parameters: torch.optim.Adagrad(parameters, lr=lr, **options)


class Lowered:
    """Cross-entropy whose weight is 1000 at the first steps of each training, and one after."""

    def __init__(self, first: int, steps: int = STEPS, weight: float = 1000.0) -> None:
        self.first, self.steps, self.weight = first, steps, weight
        self.calls = 0

    def __call__(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        now = self.calls % self.steps
        self.calls += 1
        return (self.weight if now < self.first else 1.0) * F.cross_entropy(out, y)


def stale(
    name: str, optimizer: Callable[[float], Optimizer], first: int, fast: bool = False
) -> None:
    """A memory of a thousand steps where one of twenty learns."""
    faulty_case(
        name, named, "stalled", "optimizer_state", None, dict(optimizer=optimizer(0.999)),
        fast=fast, optimizer=optimizer(0.95), steps=STEPS, loss=Lowered(first),
    )  # fmt: skip


stale("stale_moment_adam", lambda beta: adam(3e-4, betas=(0.9, beta)), 30, fast=True)
stale("stale_moment_adamw", lambda beta: adamw(2e-4, betas=(0.9, beta)), 50)


def last_layer(make: Optimizer) -> Optimizer:
    """An optimizer that is given the last layer only."""
    return lambda parameters: make(list(parameters)[-2:])


faulty_case(
    "betas_swapped_adam", mlp, HIGH, "optimizer_state", None,
    dict(optimizer=adam(2e-2, betas=(0.999, 0.9))), fast=True, optimizer=adam(2e-2),
)  # fmt: skip
faulty_case(
    "momentum_0999", named, HIGH, "optimizer_state", None,
    dict(optimizer=sgd(0.02, momentum=0.999)), optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "rmsprop_without_correction", mlp, HIGH, "optimizer_state", None,
    dict(optimizer=rmsprop(3e-3, alpha=0.99999)), optimizer=rmsprop(3e-3),
)  # fmt: skip
faulty_case(
    "adagrad_begins_full", mlp, "stalled", "optimizer_state", None,
    dict(optimizer=adagrad(1e-2, initial_accumulator_value=100.0)), optimizer=adagrad(1e-2),
)  # fmt: skip
faulty_case(
    "climbs_the_loss", mlp, HIGH, "optimizer_state", None,
    dict(optimizer=sgd(0.05, momentum=0.9, maximize=True)), optimizer=sgd(0.05, momentum=0.9),
)  # fmt: skip
faulty_case(
    "only_the_last_layer", mlp, "stalled", "disconnected_parameters", None,
    dict(optimizer=last_layer(adam(3e-3))), fast=True, optimizer=adam(3e-3), depth=4, width=10,
    init=partial(he, scale=1.0), act=nn.Tanh,
)  # fmt: skip
faulty_case(
    "eps_too_large_adam", named, "stalled", "optimizer_state", None,
    dict(optimizer=adam(1e-3, eps=1.0)), optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "eps_too_large_mlp", mlp, "stalled", "optimizer_state", None,
    dict(optimizer=adam(1e-3, eps=3.0)), optimizer=adam(1e-3),
)  # fmt: skip
