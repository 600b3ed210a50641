"""Growth over depth: what a layer does to the gradient, measured on networks and by `gain`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from tests.papers import Row
from torch import nn

import surefoot
from surefoot.diagnosis.profile import profile
from surefoot.layers import build_table
from surefoot.probes.flow import FlowProbe


def network(
    activation: Callable[[], nn.Module],
    depth: int,
    width: int,
    weights: float,
    biases: float = 0.0,
    norm: bool = False,
) -> nn.Sequential:
    """Layers with weights N(0, weights^2 / width) and biases N(0, biases^2), then a linear head."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=weights / width**0.5)
        nn.init.normal_(linear.bias, std=biases)
        layers += [linear, *([nn.BatchNorm1d(width)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def growth(model: nn.Module, x: torch.Tensor) -> float:
    """Growth of the squared gradient norm a layer: the one definition, that of the rules."""
    table, modules, _ = build_table([model])
    probe = FlowProbe(table, modules)
    probe.install()
    y = model(x)
    y.backward(torch.randn_like(y))
    seen = profile(probe.collect(0), table)
    assert seen is not None
    return 10 ** (2 * seen.growth / (len(seen.stages) - 1))


def measured(
    activation: Callable[[], nn.Module],
    weights: float,
    biases: float = 0.0,
    norm: bool = False,
    batch: int = 128,
    variance: float = 1.0,
) -> float:
    """The growth in networks of 30 layers of width 512, mean over three seeds.

    The inputs are what such a layer puts out, of a given variance before its activation, so that
    the first layer is like all others.
    """
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = network(activation, 30, 512, weights, biases, norm)
        inputs = activation()(variance**0.5 * torch.randn(batch, 512))
        found.append(growth(model, inputs))
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
        g = torch.randn(2, outputs, 48, 48) * (torch.rand(2, outputs, 48, 48) < 0.5)
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


SCHOENHOLZ = "Schoenholz et al. 2017"
_TANH = [(1.0, 0.05, 0.9341), (1.3, 0.3, 0.9398), (1.76, 0.3, 1.2020), (2.5, 0.3, 1.5852)]
ROWS = [
    *(
        Row(
            f"chi_1 of tanh at sigma_w {w}, sigma_b {b}, in a network",
            SCHOENHOLZ,
            chi,
            0.02 * chi,
            partial(tanh, w, b),
        )
        for w, b, chi in _TANH
    ),
    *(
        Row(
            f"chi_1 of tanh at sigma_w {w}, sigma_b {b}, by gain()",
            SCHOENHOLZ,
            chi,
            6e-5,
            lambda w=w, b=b: surefoot.gain(torch.tanh, w, b).chi_1,
        )
        for w, b, chi in _TANH
    ),
    *(
        Row(
            f"edge of chaos of tanh at sigma_b {b}",
            SCHOENHOLZ,
            critical,
            6e-5,
            lambda b=b: surefoot.gain(torch.tanh, sigma_b=b).sigma_w,
        )
        for b, critical in ((0.05, 1.1225), (0.3, 1.3956))
    ),
    *(
        Row(
            f"chi_1 of ReLU at sigma_w^2 = {w2}, in a network",
            "He et al. 2015: sigma_w^2 / 2",
            w2 / 2,
            0.03 * w2 / 2,
            partial(measured, nn.ReLU, w2**0.5),
        )
        for w2 in (1, 2, 3)
    ),
    Row(
        "growth of ReLU behind batch norm, batches of 512",
        "Yang et al. 2019: pi / (pi - 1)",
        math.pi / (math.pi - 1),
        0.03 * 1.467,
        partial(measured, nn.ReLU, 1.0, 0.0, True, 512),
    ),
    Row(
        "growth of a linear network behind batch norm, batches of 8",
        "Yang et al. 2019: (B - 2) / (B - 3)",
        6 / 5,
        0.03 * 1.2,
        partial(measured, nn.Identity, 1.0, 0.0, True, 8),
    ),
    Row(
        "attenuation of VGG-B's conv2 to conv10 at std 0.01",
        "He et al. 2015, section 2.2: 1.7e4",
        1.7e4,
        0.05 * 1.7e4,
        partial(attenuation, [64, 64, 128, 128, 256, 256, 512, 512, 512, 512], 0.01),
    ),
    Row(
        "variance of the log gain, 50 layers of width 100",
        "Hanin & Nica 2018: 5 L / n",
        2.5,
        0.6,
        partial(hanin, lambda x: float(x.var())),
    ),
    Row(
        "mean of the log gain, 50 layers of width 100",
        "Hanin & Nica 2018: -5 L / 2 n",
        -1.25,
        0.35,
        partial(hanin, lambda x: float(x.mean())),
    ),
]
