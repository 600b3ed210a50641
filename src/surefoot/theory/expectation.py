"""What theory expects of a layer: the growth of the gradient through its weights and activation.

For independent weights the squared norm of a gradient grows by `||W||_F^2 / fan_out` on its way
back through an affine map, and by `E[phi'(z)^2]` through an activation whose input z is normal with
the variance that was measured there. Together that is chi_1 at the layer's own scale.

A network at the edge of chaos is not exactly in balance: with n units a layer, the logarithm of the
squared gain varies from draw to draw with the variance `sum 5 / n` (ReLU). Growth within that is
chance.

Source: Schoenholz et al. 2017 (chi_1); Hanin & Nica 2020 (the variance); Yang et al. 2019 (batch
norm with ReLU: pi / (pi - 1) a layer, whatever the weights are).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import nn

from surefoot.theory.gain import moments

BATCH_NORM_RELU = 0.5 * math.log10(math.pi / (math.pi - 1))  # decades of the norm a layer

_FUNCTIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "leaky_relu": nn.functional.leaky_relu,
    "leakyrelu": nn.functional.leaky_relu,
    "elu": nn.functional.elu,
    "selu": nn.functional.selu,
    "softplus": nn.functional.softplus,
    "mish": nn.functional.mish,
    "hardtanh": nn.functional.hardtanh,
    "hardswish": nn.functional.hardswish,
    "softsign": nn.functional.softsign,
    "sin": torch.sin,
}


def weight_growth(norm: float, fan_out: int) -> float:
    """Decades by which the gradient's norm grows through weights of Frobenius norm `norm`.

    >>> import math
    >>> round(weight_growth(math.sqrt(200), 100), 3)  # He initialisation of 100 units: sqrt(2)
    0.151
    """
    return math.log10(max(norm, 1e-60)) - 0.5 * math.log10(max(fan_out, 1))


def slope_growth(function: str | None, rms: float) -> float | None:
    """Decades by which the gradient's norm changes through an activation, None for an unknown one.

    function: its name as `signals.flow.Call.activation` has it, None where there is none (0
    decades); rms: root mean square of what goes into it.

    >>> round(slope_growth("relu", 1.0), 3), round(slope_growth("sigmoid", 1e-3), 3)
    (-0.151, -0.602)
    """
    return _growth(function, rms, 1)


def signal_growth(function: str | None, rms: float) -> float | None:
    """Decades by which an activation changes the signal's root mean square; see `slope_growth`.

    >>> round(signal_growth("relu", 1.0), 3)
    -0.151
    """
    return _growth(function, rms, 0)


def _growth(function: str | None, rms: float, which: int) -> float | None:
    if function is None:
        return 0.0
    if function not in _FUNCTIONS or not 0 < rms < math.inf:
        return None
    # Beyond these scales every one of them is as it is there: linear, homogeneous or saturated.
    return _decades(function, float(f"{min(max(rms, 1e-4), 1e4):.2g}"))[which]


@lru_cache(maxsize=1024)
def _decades(function: str, rms: float) -> tuple[float, float]:
    """(of the signal, of the gradient) at an input of the given scale."""
    square, slope = moments(_FUNCTIONS[function], rms**2)
    return (
        0.5 * math.log10(max(square, 1e-120)) - math.log10(rms),
        0.5 * math.log10(max(slope, 1e-120)),
    )


def chance(widths: Iterable[int]) -> float:
    """Standard deviation, in decades of the norm, of the growth through ReLU layers of `widths`.

    >>> round(chance([100] * 50), 3)  # ln of the squared gain has the variance 2.5
    0.343
    """
    return math.sqrt(sum(5 / max(n, 1) for n in widths)) / (2 * math.log(10))
