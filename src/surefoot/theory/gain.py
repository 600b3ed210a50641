"""The gain calculator: how signals and gradients scale through layers with any activation.

For wide layers with weights of variance `sigma_w^2 / fan_in` and biases of variance `sigma_b^2`,
the pre-activations have a variance q with the map

    q' = sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2,        z ~ N(0, 1),

whose fixed point is q*. The squared norm of the gradient grows by

    chi_1 = sigma_w^2 E[phi'(sqrt(q*) z)^2]

a layer on its way back, and signal and gradient live for about the depth scale
`xi = 1 / |ln chi_1|` layers. At the edge of chaos chi_1 is 1 and depth costs nothing.

Source: Poole et al. 2016 (equations 3 and 5); Schoenholz et al. 2017 (equations 3, 7 and 9).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from surefoot.theory.quadrature import expectation

_SMALLEST, _LARGEST = 1e-10, 1e10  # variances beyond these count as 0 and infinite
Elementwise = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Gain:
    """An activation at given scales of weights and biases.

    q: variance of the pre-activations deep in the network (0 or infinite where it fades or grows
    without end); chi_1: growth of the squared gradient norm a layer, towards the input; slope:
    sqrt(E[phi'^2]), the part of that which is the activation's; forward: sqrt(E[phi^2] / q), the
    activation's gain on the signal.
    """

    sigma_w: float
    sigma_b: float
    q: float
    chi_1: float
    slope: float
    forward: float

    @property
    def depth_scale(self) -> float:
        """Layers after which a signal has changed by a factor e; infinite at the edge of chaos."""
        distance = abs(math.log(self.chi_1)) if self.chi_1 > 0 else math.inf
        return math.inf if distance < 1e-12 else 1 / distance


def gain(activation: Elementwise, sigma_w: float | None = None, sigma_b: float = 0.0) -> Gain:
    """The gain of an activation, by default with the weights that put it at the edge of chaos.

    activation: any elementwise callable on tensors (a module, a function of torch.nn.functional,
    a lambda); sigma_w: weights have the standard deviation sigma_w / sqrt(fan_in); sigma_b: that of
    the biases.

    Raises TypeError for what is no callable, ValueError for scales that are not positive, for a
    function that is not elementwise, and where no weights reach the edge of chaos.

    >>> round(gain(torch.relu).sigma_w, 6) == round(2**0.5, 6)
    True
    >>> g = gain(torch.tanh, sigma_w=2.5, sigma_b=0.3)
    >>> round(g.chi_1, 4), round(g.depth_scale, 2)
    (1.5852, 2.17)
    """
    moments = _Moments(activation)
    if not (math.isfinite(sigma_b) and sigma_b >= 0):
        raise ValueError(f"expected sigma_b >= 0, got {sigma_b!r}")
    if sigma_w is None:
        return _critical(moments, sigma_b)
    if not (math.isfinite(sigma_w) and sigma_w > 0):
        raise ValueError(f"expected sigma_w > 0, or none for the critical one; got {sigma_w!r}")
    sigma_w, sigma_b = float(sigma_w), float(sigma_b)
    return _gain(moments, sigma_w, sigma_b, _fixed_point(moments, sigma_w, sigma_b))


def moments(activation: Elementwise, q: float) -> tuple[float, float]:
    """(E[phi^2], E[phi'^2]) of an activation whose input is normal with variance q.

    >>> [round(m, 6) for m in moments(torch.relu, 4.0)]
    [2.0, 0.5]
    """
    return _Moments(activation)(q)


class _Moments:
    """E[phi^2] and E[phi'^2] as functions of the variance, each computed once."""

    def __init__(self, activation: Elementwise) -> None:
        if not callable(activation):
            raise TypeError(
                f"expected an elementwise function on tensors, got {type(activation).__name__}: "
                "call gain(torch.tanh) or gain(torch.nn.GELU())"
            )
        if isinstance(activation, nn.Module):
            activation = copy.deepcopy(activation).double().eval()
        self._function = activation
        self._known: dict[float, tuple[float, float]] = {}
        self._check()

    def _check(self) -> None:
        """Refuse what mixes its elements, as softmax does, or answers differently each time."""
        u = torch.linspace(-3, 3, 61, dtype=torch.float64)
        with torch.no_grad():
            try:
                whole = self._function(u.clone())
                parts = torch.cat([self._function(u[k : k + 1].clone()) for k in range(61)])
            except Exception as error:
                raise ValueError(
                    "expected an elementwise function on tensors, which failed on a tensor [61] "
                    f"of float64: {type(error).__name__}: {error}"
                ) from error
        if whole.shape != u.shape or not torch.allclose(whole, parts, equal_nan=True):
            raise ValueError(
                "expected an elementwise and deterministic function: this one gives other values "
                "for the same element alone (softmax, normalisation and dropout do)"
            )

    def _squares(self, u: np.ndarray) -> np.ndarray:
        """phi^2 and phi'^2 [2, N]."""
        with torch.enable_grad():
            x = torch.from_numpy(u).clone().requires_grad_(True)
            y = self._function(x * 1.0)  # a copy: the function may work in place
            slope = torch.zeros_like(x)
            if y.requires_grad:
                (slope,) = torch.autograd.grad(y.sum(), x)
        return np.stack([y.detach().numpy(), slope.numpy()]) ** 2

    def __call__(self, q: float) -> tuple[float, float]:
        """(E[phi(sqrt(q) z)^2], E[phi'(sqrt(q) z)^2])."""
        if q not in self._known:
            root = math.sqrt(q)
            square, slope = expectation(lambda z: self._squares(root * z)).tolist()
            self._known[q] = square, slope
        return self._known[q]


def _gain(moments: _Moments, sigma_w: float, sigma_b: float, q: float) -> Gain:
    inside = min(max(q, _SMALLEST), _LARGEST)
    square, slope = moments(inside)
    forward = math.sqrt(square / inside)
    return Gain(sigma_w, sigma_b, q, sigma_w**2 * slope, math.sqrt(slope), forward)


def _fixed_point(moments: _Moments, sigma_w: float, sigma_b: float) -> float:
    """The variance that is reached from 1: a stable fixed point, 0, or infinity.

    Where every variance is one (ReLU at its critical weights) it is 1.
    """

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return math.log(max(sigma_w**2 * moments(q)[0] + sigma_b**2, 1e-300)) - log_q

    start = excess(0.0)
    if abs(start) < 1e-9:
        return 1.0
    way = math.copysign(1.0, start)
    near, end = 0.0, math.log(_LARGEST if way > 0 else _SMALLEST)
    while near != end:
        far = min(near + 0.5, end) if way > 0 else max(near - 0.5, end)
        if math.copysign(1.0, excess(far)) != way:
            return math.exp(_root(excess, near, far))
        near = far
    return math.inf if way > 0 else 0.0


def _critical(moments: _Moments, sigma_b: float) -> Gain:
    """The weights with chi_1 = 1, from the smallest variance that they keep.

    chi_1 = 1 gives sigma_w^2 = 1 / E[phi'^2]; that q is then kept asks for the biases' variance
    q - E[phi^2] / E[phi'^2], which grows from 0 at q = 0.
    """

    def missing(log_q: float) -> float:
        q = math.exp(log_q)
        square, slope = moments(q)
        return (q - square / slope - sigma_b**2) / q if slope > 0 else -math.inf

    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    grid = np.linspace(low, high, 47)
    values = [missing(x) for x in grid]
    if all(abs(v) < 1e-9 for v in values):  # ReLU and its kin keep every variance
        q = 1.0
    elif sigma_b == 0 and abs(values[0]) < 1e-6:
        q = 0.0
    else:
        up = next((k for k in range(46) if values[k] < 0 <= values[k + 1]), None)
        if up is None:
            raise ValueError(
                f"no weights put this activation at the edge of chaos with sigma_b = {sigma_b:g}: "
                "give sigma_w to see its gain there, or try another sigma_b"
            )
        q = math.exp(_root(missing, grid[up], grid[up + 1]))
    slope = moments(max(q, _SMALLEST))[1]
    return _gain(moments, 1 / math.sqrt(slope), sigma_b, q)


def _root(function: Callable[[float], float], a: float, b: float) -> float:
    """Where a function changes sign between a and b, by bisection."""
    sign = function(a) > 0
    for _ in range(60):
        middle = (a + b) / 2
        if (function(middle) > 0) == sign:
            a = middle
        else:
            b = middle
    return (a + b) / 2
