"""Optimizer states that look odd in trainings with which nothing is wrong."""

from __future__ import annotations

import torch

from corpus import fast_healthy_case, healthy_case
from corpus.recipes import adam, named
from corpus.tune.faulty_optimizer import STEPS, Lowered


@fast_healthy_case
def weight_lowered_short_memory(seed: int) -> float:
    """The loss's weight falls by a thousand, and the optimizer's memory is short."""
    return named(seed, optimizer=adam(1e-3, betas=(0.9, 0.95)), steps=STEPS, loss=Lowered(10))


@healthy_case
def weight_lowered_usual_memory(seed: int) -> float:
    """The weight falls by ten, which the usual memory takes in its stride."""
    loss = Lowered(10, weight=10.0)
    return named(seed, optimizer=adam(1e-3), steps=STEPS, loss=loss)


@healthy_case
def large_eps_adam(seed: int) -> float:
    """An eps that rules most elements, as some recipes have it, with a learning rate to match."""
    return named(seed, optimizer=adam(3e-2, eps=1.0), steps=300)


@healthy_case
def long_memory_adam(seed: int) -> float:
    """beta2 of 0.9999 on gradients that fade with the loss."""
    return named(seed, optimizer=adam(1e-3, betas=(0.9, 0.9999)), steps=300)


@healthy_case
def amsgrad_and_nadam(seed: int) -> float:
    """Two relatives of Adam, one after the other."""
    first = named(seed, optimizer=lambda p: torch.optim.NAdam(p, lr=1e-3))
    second = named(seed, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True))
    return max(first, second)
