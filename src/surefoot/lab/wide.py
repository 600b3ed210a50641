"""What theory expects of wide layers, by quadrature of its own: `surefoot.gain` is no witness here.

Source: Poole et al. 2016 (the variance's map); Schoenholz et al. 2017 (chi_1); Cho & Saul 2009 (the
kernels of ReLU); Balduzzi et al. 2017 (what they do to gradients).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# The trapezoidal rule is exact to rounding for a smooth function that decays; fine enough for a
# sigmoid that is steep beside its input, as large weights make it.
_NODES = np.linspace(-12, 12, 2401)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()
Function = Callable[[np.ndarray], np.ndarray]
LOST = 1 / math.pi  # share of a ReLU layer's power that is its mean, which batch norm takes away


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


_KNOWN: dict[str, tuple[Function, Function]] = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
}


def variance(activation: str, weights: float, biases: float = 0.0) -> float:
    """The variance q* of the pre-activations deep in the network: q = w^2 E[phi^2] + b^2."""
    function, q = _KNOWN[activation][0], 1.0
    for _ in range(10_000):
        before = q
        q = weights**2 * float(_WEIGHTS @ function(q**0.5 * _NODES) ** 2) + biases**2
        if abs(q - before) < 1e-14:
            break
    return q


def chi(activation: str, weights: float, biases: float = 0.0) -> float:
    """chi_1 = w^2 E[phi'^2] at q*: growth of the squared gradient norm a layer.

    >>> round(chi("tanh", 2.5, 0.3), 4), round(chi("sigmoid", 4.0), 4)
    (1.5852, 0.3989)
    """
    slope = _KNOWN[activation][1]
    root = variance(activation, weights, biases) ** 0.5
    return weights**2 * float(_WEIGHTS @ slope(root * _NODES) ** 2)


def critical(activation: str, biases: float = 0.0, high: float = 20.0) -> float:
    """The weights at which chi_1 is 1, by bisection.

    >>> round(critical("sigmoid"), 2), round(critical("tanh", 0.3), 3)
    (10.15, 1.396)
    """
    low = 0.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if chi(activation, middle, biases) < 1 else (low, middle)
    return low


def gates(c: float) -> float:
    """Share of a ReLU layer's active units that are active for both of two inputs of cosine c."""
    return 1 - math.acos(min(1.0, c)) / math.pi


def signals(c: float) -> float:
    """Cosine behind a ReLU layer of two inputs of cosine c."""
    return (math.sqrt(max(0.0, 1 - c * c)) + c * (math.pi - math.acos(min(1.0, c)))) / math.pi


def coherence(depth: int, epsilon: float, *, normalized: bool) -> float:
    """Of gradients at inputs a relative distance apart, behind plain ReLU layers.

    >>> round(coherence(10, 0.01, normalized=True), 3), coherence(50, 0.01, normalized=True) < 1e-3
    (0.917, True)
    """
    c, product = 1 / math.sqrt(1 + epsilon**2), 1.0
    for _ in range(depth):
        product *= gates(c)
        c = (signals(c) - LOST) / (1 - LOST) if normalized else signals(c)
    return product


def residual_coherence(depth: int, c: float) -> float:
    """The same behind x + W relu(bn(x)), depth times, of inputs of cosine c after centring.

    The trunk's variance s and the covariance q of two inputs grow with every block, and a block
    adds 1 / s to the gradient's square but only gates(q / s) / s to what both have in common.

    >>> round(residual_coherence(8, 0.0), 3), round(residual_coherence(32, 0.0), 4)
    (0.314, 0.1285)
    """
    s, q, product = 1.0, c, 1.0
    for _ in range(depth):
        product *= (1 + gates(q / s) / s) / (1 + 1 / s)
        s, q = s + 1 - LOST, q + signals(q / s) - LOST
    return product
