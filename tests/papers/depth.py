"""Growth over depth: what a layer does to the gradient, measured on networks and by `gain`.

One definition of growth serves the whole table, that of the rules: the decades that
`surefoot.diagnosis.profile` sees between the first and the last layer before the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from tests.papers import Row, Seen
from tests.papers.networks import plain
from torch import nn

import surefoot
from surefoot.diagnosis.profile import Profile, profile
from surefoot.layers import build_table
from surefoot.probes.flow import FlowProbe

GAPS = 29  # of 30 layers
# The trapezoidal rule is exact to rounding for a smooth function that decays; Gauss-Hermite is off
# by 2e-4 at sigma_w 2.5, where tanh is too steep for it.
NODES = np.linspace(-12, 12, 241)
WEIGHTS = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()


def fixed_point(weights: float, biases: float) -> float:
    """The variance q* of tanh layers, by iterating Schoenholz et al.'s equation 3 to its end."""
    q, before = 1.0, 0.0
    while abs(q - before) > 1e-14:
        before = q
        q = weights**2 * float(WEIGHTS @ np.tanh(q**0.5 * NODES) ** 2) + biases**2
    return q


def chi(weights: float, biases: float) -> float:
    """sigma_w^2 E[phi'^2] at q*, for tanh."""
    slopes = 1 - np.tanh(fixed_point(weights, biases) ** 0.5 * NODES) ** 2
    return weights**2 * float(WEIGHTS @ slopes**2)


def edge(biases: float) -> float:
    """The sigma_w at which chi is 1, for tanh, by bisection."""
    low, high = 1.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if chi(middle, biases) < 1 else (low, middle)
    return low


def see(model: nn.Module, x: torch.Tensor) -> Profile:
    """The depth profile of one backward pass from a random cotangent."""
    table, modules, _ = build_table([model])
    probe = FlowProbe(table, modules)
    probe.install()
    y = model(x)
    y.backward(torch.randn_like(y))
    seen = profile(probe.collect(0), table)
    assert seen is not None
    return seen


def measured(
    activation: Callable[[], nn.Module],
    weights: float,
    biases: float = 0.0,
    norm: Callable[[int], nn.Module] | None = None,
    batch: int = 128,
    variance: float = 1.0,
) -> float:
    """Growth of the squared gradient norm a layer: 30 layers of width 512, mean of three seeds.

    The inputs are what such a layer puts out, of a given variance before its activation, so that
    the first layer is like all others.
    """
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = plain(activation, GAPS + 1, 512, weights, biases, norm)
        inputs = activation()(variance**0.5 * torch.randn(batch, 512))
        found.append(10 ** (2 * see(model, inputs).growth / GAPS))
    return float(np.mean(found))


def tanh(weights: float, biases: float) -> float:
    """The growth of tanh layers, begun at the variance q* of their pre-activations."""
    q = surefoot.gain(torch.tanh, weights, biases).q
    return measured(nn.Tanh, weights, biases, variance=q)


def attenuation(widths: list[int], std: float) -> float:
    """How much a stack of 3 x 3 convolutions with N(0, std^2) weights and ReLU shrinks a gradient.

    He et al. 2015, section 2.2: each layer multiplies its standard deviation by
    std sqrt(k^2 d / 2), d the layer's outputs.
    """
    torch.manual_seed(0)
    logs = 0.0
    for inputs, outputs in pairwise(widths):
        weight = torch.randn(outputs, inputs, 3, 3) * std
        g = torch.randn(2, outputs, 24, 24) * (torch.rand(2, outputs, 24, 24) < 0.5)
        back = nn.functional.conv_transpose2d(g, weight, padding=1)[:, :, 2:-2, 2:-2]
        # of a gradient that came through no gate, as the next layer's gate is counted there
        logs += math.log(float(back.std()) / (float(g.std()) * 2**0.5))
    return math.exp(-logs)


def hanin(statistic: Callable[[np.ndarray], float]) -> float:
    """ln ||J^T v||^2 over 300 networks of 50 layers of width 100: its mean or its variance."""
    torch.manual_seed(0)
    logs = []
    for _ in range(300):
        v = torch.randn(100)
        v = v / v.norm()
        for _ in range(50):
            weight = torch.randn(100, 100) * (2 / 100) ** 0.5
            v = (weight.T @ v) * (torch.rand(100) < 0.5)
        logs.append(2 * math.log(float(v.norm())))
    return statistic(np.array(logs))


def standard_error(b: float) -> float:
    """Of a growth a layer over 3 seeds, width 512: one layer's log gain has the variance b / n.

    b is 5 for ReLU (Hanin & Nica 2018), and at least 2 for any other activation.
    """
    return math.sqrt(b / (512 * GAPS * 3))


SCHOENHOLZ = "Schoenholz et al. 2017: chi_1 = w^2 E[phi'^2]"
YANG = "Yang et al. 2019"
QUADRATURE = "two quadratures, trapezoidal here and panels there"
_TANH = [(1.0, 0.05), (1.3, 0.3), (1.76, 0.3), (2.5, 0.3)]


def _growth(
    name: str,
    source: str,
    seen: Seen,
    theory: float,
    measure: Callable[[], float],
    *,
    b: float = 5,
    quick: bool = True,
) -> Row:
    tolerance = 3 * standard_error(b) * theory
    why = f"3 s.e. of 3 networks of width 512 ({b:g} L / n)"
    return Row(
        name=name, source=source, seen=seen, theory=theory, tolerance=tolerance, why=why,
        measure=measure, quick=quick,
    )  # fmt: skip


ROWS = [
    *(
        _growth(
            f"growth of tanh at sigma_w {w}, sigma_b {b}, in a network",
            SCHOENHOLZ,
            Seen.SECOND_HAND,
            chi(w, b),
            partial(tanh, w, b),
            b=2,
            quick=w == 2.5,
        )
        for w, b in _TANH
    ),
    *(
        Row(
            name=f"growth of tanh at sigma_w {w}, sigma_b {b}, by gain()",
            source=SCHOENHOLZ,
            seen=Seen.SECOND_HAND,
            theory=chi(w, b),
            tolerance=1e-10,
            why=QUADRATURE,
            measure=lambda w=w, b=b: surefoot.gain(torch.tanh, w, b).chi_1,
        )
        for w, b in _TANH
    ),
    *(
        Row(
            name=f"edge of chaos of tanh at sigma_b {b}",
            source="Schoenholz et al. 2017: chi_1 = 1",
            seen=Seen.SECOND_HAND,
            theory=edge(b),
            tolerance=1e-10,
            why=QUADRATURE,
            measure=lambda b=b: surefoot.gain(torch.tanh, sigma_b=b).sigma_w,
        )
        for b in (0.05, 0.3)
    ),
    _growth(
        "growth of sigmoid at sigma_w 4, in a network",
        SCHOENHOLZ,
        Seen.SECOND_HAND,
        0.3979,
        lambda: measured(nn.Sigmoid, 4.0, variance=surefoot.gain(torch.sigmoid, 4.0).q, batch=64),
        b=2,
        quick=False,
    ),
    *(
        _growth(
            f"growth of ReLU at sigma_w^2 = {w2}, in a network",
            "He et al. 2015, section 2.2: sigma_w^2 / 2",
            Seen.SECOND_HAND,
            w2 / 2,
            partial(measured, nn.ReLU, w2**0.5),
            quick=False,
        )
        for w2 in (1, 2, 3)
    ),
    _growth(
        "growth of ReLU behind batch norm, batches of 512",
        f"{YANG}: pi / (pi - 1)",
        Seen.SECOND_HAND,
        math.pi / (math.pi - 1),
        partial(measured, nn.ReLU, 1.0, 0.0, nn.BatchNorm1d, 512),
    ),
    _growth(
        "growth of a linear network behind batch norm, batches of 8",
        f"{YANG}: (B - 2) / (B - 3)",
        Seen.MEMORY,
        6 / 5,
        partial(measured, nn.Identity, 1.0, 0.0, nn.BatchNorm1d, 8),
        b=2,
    ),
    _growth(
        "growth of ReLU behind layer norm",
        "Schoenholz et al. 2017: (w^2 / 2) / (w^2 / 2)",
        Seen.DERIVED,
        1.0,
        partial(measured, nn.ReLU, 1.0, 0.0, nn.LayerNorm),
        quick=False,
    ),
    Row(
        name="attenuation of VGG-B's conv2 to conv10 at std 0.01",
        source="He et al. 2015, section 2.2: 1.7e4",
        seen=Seen.SECOND_HAND,
        theory=1.7e4,
        tolerance=500,
        why="the paper gives 2 digits",
        measure=partial(attenuation, [64, 64, 128, 128, 256, 256, 512, 512, 512, 512], 0.01),
    ),
    Row(
        name="variance of the log gain, 50 layers of width 100",
        source="Hanin & Nica 2018: 5 L / n",
        seen=Seen.MEMORY,
        theory=2.5,
        tolerance=3 * 2.5 * math.sqrt(2 / 299),
        why="3 s.e. of a variance over 300 networks",
        measure=partial(hanin, lambda x: float(x.var())),
        quick=False,
    ),
    Row(
        name="mean of the log gain, 50 layers of width 100",
        source="Hanin & Nica 2018: -5 L / 2 n",
        seen=Seen.MEMORY,
        theory=-1.25,
        tolerance=3 * math.sqrt(2.5 / 300),
        why="3 s.e. of a mean over 300 networks",
        measure=partial(hanin, lambda x: float(x.mean())),
        quick=False,
    ),
]
