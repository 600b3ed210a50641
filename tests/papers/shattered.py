"""Coherence of gradients between neighbouring inputs, and between different ones.

What a wide network does to two inputs is written down here once more from the kernels of Cho &
Saul, so that `surefoot.theory.kernels` is not its own witness.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tests.papers import Row, Seen
from tests.papers.networks import Residual, plain
from torch import nn

from surefoot.probes.shattering import shattering

LOST = 1 / math.pi  # share of a ReLU layer's power that is its mean, which batch norm takes away


def gates(c: float) -> float:
    """Share of a ReLU layer's active units that are active for both of two inputs of cosine c."""
    return 1 - math.acos(min(1.0, c)) / math.pi


def signals(c: float) -> float:
    """Cosine behind a ReLU layer of two inputs of cosine c."""
    return (math.sqrt(max(0.0, 1 - c * c)) + c * (math.pi - math.acos(min(1.0, c)))) / math.pi


def residual_law(depth: int, c: float) -> float:
    """Coherence behind x + W relu(bn(x)), depth times, of inputs of cosine c after centring.

    The trunk's variance s and the covariance q of the two inputs grow with every block, and a
    block adds 1/s to the gradient's square but only gates(q / s) / s to what both have in common.
    """
    s, q, product = 1.0, c, 1.0
    for _ in range(depth):
        product *= (1 + gates(q / s) / s) / (1 + 1 / s)
        s, q = s + 1 - LOST, q + signals(q / s) - LOST
    return product


def plain_law(depth: int, c: float, centred: bool) -> float:
    """Coherence behind plain ReLU layers, with batch norm before each (centred) or without."""
    product = 1.0
    for _ in range(depth):
        product *= gates(c)
        c = (signals(c) - LOST) / (1 - LOST) if centred else signals(c)
    return product


def theorem_3(depth: int) -> float:
    """Independent gates, variance 1 + l at block l: the branch counts 1 / l of the trunk."""
    return math.prod((1 + 0.5 / l) / (1 + 1 / l) for l in range(1, depth + 1))  # noqa: E741


def beside(epsilon: float) -> float:
    """Cosine of a point and its neighbour at relative distance epsilon."""
    return 1 / math.sqrt(1 + epsilon**2)


def pairs(depth: int, skips: bool = False, seeds: int = 4) -> float:
    """Mean cosine of input gradients of different samples, batch statistics held constant."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        head = torch.randn(512)
        start = torch.randn(128, 512).requires_grad_()
        x = start
        for _ in range(depth):
            weight = torch.randn(512, 512) * (2 / 512) ** 0.5
            z = x if skips else x @ weight
            y = F.relu((z - z.detach().mean(0)) / z.detach().std(0))
            x = x + y @ weight if skips else y
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
        model = plain(nn.ReLU, depth, width, 2**0.5, norm=nn.BatchNorm1d if norm else None)
        found.append(shattering(model, [torch.randn(256, width)], epsilon=epsilon).coherence)
    return float(np.mean(found))


def residual_neighbours(depth: int, width: int = 256) -> float:
    """The probe's coherence at 1 % in residual networks with batch norm."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        blocks = [Residual(width, norm=True) for _ in range(depth)]
        model = nn.Sequential(*blocks, nn.Linear(width, 10))
        found.append(shattering(model, [torch.randn(256, width)]).coherence)
    return float(np.mean(found))


def coins(depth: int, beta: float | None) -> float:
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
KERNELS = "Cho & Saul 2009, equations 4 to 6"
FINITE = "3 s.e. of 3 networks, and (1 - R) L / B: a batch's statistics are its own"
ROWS = [
    *(
        Row(
            name=f"correlation of gradients, {depth} layers with batch norm",
            source=f"{BALDUZZI}, theorem 1: 2^-L",
            seen=Seen.SECOND_HAND,
            theory=2.0**-depth,
            tolerance=tolerance,
            why="3 s.e. of 4 networks",
            measure=partial(pairs, depth),
        )
        for depth, tolerance in ((1, 0.023), (2, 0.024), (4, 0.009))
    ),
    Row(
        name="correlation of gradients, 4 residual layers, gates by coin",
        source=f"{BALDUZZI}, theorem 2: (3/4)^L",
        seen=Seen.MEMORY,
        theory=0.75**4,
        tolerance=0.022,
        why="3 s.e. of 40 networks",
        measure=partial(coins, 4, None),
    ),
    Row(
        name="correlation of gradients, 8 residual layers behind batch norm, gates by coin",
        source=f"{BALDUZZI}, theorem 3: prod (1 + 1/2l) / (1 + 1/l)",
        seen=Seen.SECOND_HAND,
        theory=theorem_3(8),
        tolerance=0.016,
        why="3 s.e. of 40 networks",
        measure=partial(coins, 8, 1.0),
    ),
    *(
        Row(
            name=f"correlation of gradients, {depth} residual layers with batch norm, real gates",
            source=f"{BALDUZZI}, theorem 3, variance 1 + (1 - 1/pi) l",
            seen=Seen.DERIVED,
            theory=residual_law(depth, 0.0),
            tolerance=tolerance,
            why="3 s.e. of 4 networks, and L / n",
            measure=partial(pairs, depth, True),
        )
        for depth, tolerance in ((8, 0.019), (32, 0.017))
    ),
    Row(
        name="coherence at 10 %, 10 plain layers",
        source=f"{KERNELS}: prod k0(c_l)",
        seen=Seen.DERIVED,
        theory=plain_law(10, beside(0.1), centred=False),
        tolerance=0.023,
        why="3 s.e. of 3 networks, and (1 - R) L / n",
        measure=partial(neighbours, 10, False, 0.1),
    ),
    *(
        Row(
            name=f"coherence at 1 %, {depth} layers with batch norm",
            source=f"{KERNELS}, centred",
            seen=Seen.DERIVED,
            theory=plain_law(depth, beside(0.01), centred=True),
            tolerance=tolerance,
            why=FINITE,
            measure=partial(neighbours, depth, True, 0.01),
            quick=depth < 20,
        )
        for depth, tolerance in (
            (5, 0.002),
            (10, 0.0065),
            (20, 0.056),
        )
    ),
    Row(
        name="coherence at 1 %, 50 layers with batch norm",
        source=f"{BALDUZZI}: white noise",
        seen=Seen.CHECKED,
        theory=0.0,
        tolerance=0.03,
        why="3 s.e. of 3 networks",
        measure=partial(neighbours, 50, True, 0.01, 256),
    ),
    Row(
        name="coherence at 1 %, 50 residual layers with batch norm",
        source=f"{KERNELS}, centred, with skips",
        seen=Seen.DERIVED,
        theory=residual_law(50, beside(0.01)),
        tolerance=0.0055,
        why=FINITE,
        measure=partial(residual_neighbours, 50),
    ),
]
