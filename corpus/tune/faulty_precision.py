"""Faults of half precision: gradients below its range, scales that fail, values beyond it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus import faulty_case
from corpus.data import batches, digits, share
from corpus.recipes import Named, Optimizer, adam, he, sgd


def half(
    seed: int,
    *,
    scaler: bool = True,
    scale: float = 2.0**16,
    factor: float = 1.0,
    whole: bool = False,
    middle: Callable[[], nn.Module] = nn.Identity,
    optimizer: Optimizer = adam(1e-3, eps=1e-12),
    steps: int = 150,
) -> float:
    """`Named` on digits under float16 autocast; the loss is weighted with `factor`.

    `whole` turns the model itself to float16 instead.
    """
    torch.manual_seed(seed)
    x, y = digits()
    model = Named(4, 64)
    he(model)
    model.middle = middle()
    if whole:
        model.half()
        x = x.half()
    made = optimizer(model.parameters())
    scaling = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scaler and not whole)
    for xb, yb in batches(x, y, 64, steps, seed):
        made.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16, enabled=not whole):
            loss = factor * F.cross_entropy(model(xb), yb)
        scaling.scale(loss).backward()
        scaling.step(made)
        scaling.update()
    return share(model, x, y)


class Root(nn.Module):
    """Adds a square root that is taken of zero: finite forward, and without a gradient there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x - x).float().sqrt()


class Squares(nn.Module):
    """Squares in float16, too large for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x * 1000).half().square()
        return (y / y.amax(1, keepdim=True)).float()


UNDERFLOW = "vanishing|stalled"
faulty_case(
    "underflow_small_loss", half, UNDERFLOW, "dtype_underflow", None, dict(scaler=False),
    fast=True, factor=1e-6,
)  # fmt: skip
faulty_case(
    "underflow_few_bits", half, UNDERFLOW, "dtype_underflow", None, dict(scaler=False),
    factor=1e-5,
)  # fmt: skip
faulty_case(
    "underflow_scale_too_small", half, UNDERFLOW, "dtype_underflow", None, dict(scale=2.0**-10),
    factor=1e-3,
)  # fmt: skip
faulty_case(
    "underflow_adam_in_float16", half, "nonfinite", "dtype_underflow", None, dict(whole=True),
    optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "scale_collapses_undefined", half, "nonfinite", "undefined_operation", "middle",
    dict(middle=Root), fast=True, optimizer=sgd(0.05, momentum=0.9), steps=80,
)  # fmt: skip
faulty_case(
    "scale_collapses_overflow", half, "nonfinite", "dtype_overflow", "middle",
    dict(middle=Squares), optimizer=sgd(0.05, momentum=0.9), steps=80,
)  # fmt: skip
