"""Healthy trainings in half precision, refusals and small gradients included."""

from __future__ import annotations

import torch

from corpus import fast_healthy_case, healthy_case
from corpus.recipes import adam, sgd
from corpus.tune.faulty_precision import half


@fast_healthy_case
def half_scaler_settles(seed: int) -> float:
    """A scale that begins 2^10 times too high, and is halved until it fits."""
    return half(seed, scale=2.0**24, optimizer=sgd(0.05, momentum=0.9))


@healthy_case
def half_scaler_fused(seed: int) -> float:
    """The same with a fused optimizer, which is told of the overflow and holds the step back."""
    return half(seed, scale=2.0**24, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, fused=True))


@healthy_case
def half_without_scaler(seed: int) -> float:
    """No scaler, and gradients that do without."""
    return half(seed, scaler=False, optimizer=adam(1e-3))


@fast_healthy_case
def half_small_gradients(seed: int) -> float:
    """Gradients of a few steps of float16's smallest number: coarse, and good enough."""
    return half(seed, scaler=False, factor=1e-4)


@healthy_case
def half_weights_sgd(seed: int) -> float:
    """The model itself in float16, with an optimizer that has nothing to divide by."""
    return half(seed, whole=True, optimizer=sgd(0.05, momentum=0.9))
