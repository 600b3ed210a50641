"""Coherence of gradients between neighbouring inputs, and between different ones."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tests.papers import Row
from tests.papers.depth import network
from torch import nn

from surefoot.probes.shattering import shattering


def pairs(depth: int) -> float:
    """Mean cosine of input gradients of different samples, batch statistics held constant."""
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        layers = [torch.randn(512, 512) * (2 / 512) ** 0.5 for _ in range(depth)]
        head = torch.randn(512)
        start = torch.randn(128, 512).requires_grad_()
        x = start
        for weight in layers:
            z = x @ weight
            x = F.relu((z - z.detach().mean(0)) / z.detach().std(0))
        (g,) = torch.autograd.grad((x @ head).sum(), start)
        g = F.normalize(g)
        cosines = g @ g.T
        found.append(float((cosines.sum() - 128) / (128 * 127)))
    return float(np.mean(found))


def neighbours(depth: int, norm: bool, epsilon: float, width: int = 512) -> float:
    """The probe's coherence, mean over three seeds."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = network(nn.ReLU, depth, width, 2**0.5, norm=norm)
        found.append(shattering(model, [torch.randn(256, width)], epsilon=epsilon).coherence)
    return float(np.mean(found))


def gates(depth: int, beta: float | None) -> float:
    """Correlation of gradients in residual networks whose gates are independent coins.

    beta: scale of the branch behind batch norm, whose effect on the trunk's variance is divided
    out; None without normalisation.
    """
    torch.manual_seed(0)
    dots, squares = 0.0, 0.0
    width = 512
    for _ in range(40):
        a = torch.randn(width)
        b = a.clone()
        for layer in range(depth):
            weight = torch.randn(width, width) * (2 / width) ** 0.5
            scale = 1.0 if beta is None else beta / (beta**2 * layer + 1) ** 0.5
            gate = [(torch.rand(width) < 0.5).float() for _ in range(2)]
            a = a + scale * gate[0] * (weight @ a)
            b = b + scale * gate[1] * (weight @ b)
        dots += float(a @ b)
        squares += float((a @ a + b @ b) / 2)
    return dots / squares


BALDUZZI = "Balduzzi et al. 2017"
ROWS = [
    *(
        Row(
            f"correlation of gradients, {depth} layers with batch norm",
            f"{BALDUZZI}, theorem 1: 2^-L",
            2.0**-depth,
            0.02,
            partial(pairs, depth),
        )
        for depth in (1, 2, 4)
    ),
    Row(
        "correlation of gradients, 4 residual layers",
        f"{BALDUZZI}, theorem 2: (3/4)^L",
        0.75**4,
        0.03,
        partial(gates, 4, None),
    ),
    Row(
        "coherence at 10 %, 10 plain layers",
        "Cho & Saul 2009: prod k0(c_l)",
        0.735,
        0.03,
        partial(neighbours, 10, False, 0.1),
    ),
    *(
        Row(
            f"coherence at 1 %, {depth} layers with batch norm",
            "Cho & Saul 2009, centred",
            value,
            tolerance,
            partial(neighbours, depth, True, 0.01),
        )
        for depth, value, tolerance in ((5, 0.976, 0.02), (10, 0.917, 0.02), (20, 0.528, 0.06))
    ),
    Row(
        "coherence at 1 %, 50 layers with batch norm",
        f"{BALDUZZI}: white noise",
        0.0,
        0.05,
        partial(neighbours, 50, True, 0.01, 256),
    ),
]
