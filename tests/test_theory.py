"""The gain calculator against closed forms, another library's quadrature, and published values."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import nn

import surefoot
from surefoot.theory.gain import gain
from surefoot.theory.quadrature import expectation


def normal(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("power", range(0, 21, 2))
def test_moments_of_the_gaussian(power: int) -> None:
    exact = math.prod(range(1, power, 2))
    assert expectation(lambda z: z**power) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("at", [-4.0, -1.234, 0.0, 0.3, 2.71828])
def test_a_jump_anywhere_is_closed_in_on(at: float) -> None:
    exact = math.erfc(at / math.sqrt(2)) / 2
    assert float(expectation(lambda z: (z > at) * 1.0)) == pytest.approx(exact, abs=1e-10)


def test_several_expectations_at_once() -> None:
    both = expectation(lambda z: np.stack([np.abs(z), z > 1.0]))
    assert both[0] == pytest.approx(math.sqrt(2 / math.pi), abs=1e-10)
    assert both[1] == pytest.approx(math.erfc(1 / math.sqrt(2)) / 2, abs=1e-10)


def test_a_function_that_is_rough_everywhere_ends() -> None:
    noise = np.random.default_rng(0)
    assert math.isfinite(float(expectation(lambda z: noise.random(z.shape))))


# (function, E[phi^2], E[phi'^2]) as functions of the variance of a centred Gaussian
CLOSED: dict[str, tuple[Callable, Callable, Callable]] = {
    "identity": (lambda x: x, lambda q: q, lambda q: 1.0),
    "relu": (torch.relu, lambda q: q / 2, lambda q: 0.5),
    "leaky": (
        nn.LeakyReLU(0.2),
        lambda q: q * (1 + 0.2**2) / 2,
        lambda q: (1 + 0.2**2) / 2,
    ),
    "erf": (
        torch.erf,
        lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
        lambda q: 4 / math.pi / math.sqrt(1 + 4 * q),
    ),
    "sin": (
        torch.sin,
        lambda q: (1 - math.exp(-2 * q)) / 2,
        lambda q: (1 + math.exp(-2 * q)) / 2,
    ),
    "square": (torch.square, lambda q: 3 * q * q, lambda q: 4 * q),
    "hardtanh": (
        F.hardtanh,
        lambda q: (
            q * (math.erf(1 / math.sqrt(2 * q)) - 2 / math.sqrt(q) * normal(1 / math.sqrt(q)))
            + math.erfc(1 / math.sqrt(2 * q))
        ),
        lambda q: math.erf(1 / math.sqrt(2 * q)),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("sigma_w", [0.7, 1.0, 1.9])
@pytest.mark.parametrize("sigma_b", [0.0, 0.4])
def test_against_the_closed_form(name: str, sigma_w: float, sigma_b: float) -> None:
    function, square, slope = CLOSED[name]
    found = gain(function, sigma_w, sigma_b)
    q = found.q
    if math.isfinite(q) and q > 0:  # it really is a fixed point of the exact map
        assert sigma_w**2 * square(q) + sigma_b**2 == pytest.approx(q, rel=1e-6)
    if math.isinf(q):
        assert sigma_w**2 * square(1e9) + sigma_b**2 > 1e9
    if 0 < q < math.inf:
        assert found.chi_1 == pytest.approx(sigma_w**2 * slope(q), rel=1e-8)
        assert found.forward == pytest.approx(math.sqrt(square(q) / q), rel=1e-8)
        assert found.slope == pytest.approx(math.sqrt(slope(q)), rel=1e-8)


@pytest.mark.parametrize(
    "function",
    [torch.tanh, torch.sigmoid, F.gelu, F.silu, F.elu, F.selu, F.softplus, F.mish, F.hardswish],
)
@pytest.mark.parametrize("q", [0.01, 1.0, 30.0])
def test_the_growth_against_scipy(function: Callable, q: float) -> None:
    """sigma_w and sigma_b are chosen so that q is a fixed point of scipy's integrals."""

    def moment(derivative: bool) -> float:
        def inside(z: float) -> float:
            x = torch.tensor(math.sqrt(q) * z, dtype=torch.float64, requires_grad=True)
            y = function(x)
            if derivative:
                (y,) = torch.autograd.grad(y, x)
            return float(y.detach()) ** 2 * normal(z)

        kinks = [k / math.sqrt(q) for k in (-3, 0, 3)]
        bounds = sorted({-12.0, 12.0, *(k for k in kinks if abs(k) < 12)})
        return sum(quad(inside, a, b)[0] for a, b in pairwise(bounds))

    sigma_w = 0.9 * math.sqrt(q / moment(False))
    sigma_b = math.sqrt(q - sigma_w**2 * moment(False))
    found = gain(function, sigma_w, sigma_b)
    exact = moment(True)
    # Where the map has several fixed points the one that is reached from 1 may be another.
    if found.q == pytest.approx(q, rel=1e-3):
        assert found.chi_1 == pytest.approx(sigma_w**2 * exact, rel=1e-6)
    else:
        assert function in (F.gelu, F.silu, F.mish, F.hardswish)


@pytest.mark.parametrize(
    ("sigma_w", "sigma_b", "chi"),
    [
        (1.0, 0.05, 0.9341),
        (1.3, 0.3, 0.9398),
        (1.76, 0.3, 1.2020),
        (2.5, 0.3, 1.5852),
        (4.0, 0.3, 2.36726),  # by scipy's quad
    ],
)
def test_growth_of_tanh(sigma_w: float, sigma_b: float, chi: float) -> None:
    assert gain(torch.tanh, sigma_w, sigma_b).chi_1 == pytest.approx(chi, abs=6e-5)


@pytest.mark.parametrize(
    ("function", "sigma_b", "critical"),
    [
        (torch.relu, 0.0, 2**0.5),  # He et al. 2015
        (torch.tanh, 0.0, 1.0),
        (torch.tanh, 0.05, 1.1225),  # Schoenholz et al. 2017
        (torch.tanh, 0.3, 1.3956),
        (nn.LeakyReLU(0.2), 0.0, (2 / (1 + 0.2**2)) ** 0.5),
        (F.gelu, 0.0, 2.0),  # its slope at 0 is 1/2
        (F.silu, 0.0, 2.0),
        (torch.erf, 0.0, math.sqrt(math.pi) / 2),
        (torch.sigmoid, 0.0, 10.149264),  # by scipy's quad and brentq
    ],
)
def test_the_edge_of_chaos(function: Callable, sigma_b: float, critical: float) -> None:
    found = gain(function, sigma_b=sigma_b)
    assert found.sigma_w == pytest.approx(critical, rel=5e-5)
    assert found.chi_1 == pytest.approx(1, abs=1e-6)
    assert found.depth_scale > 1e5


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.mish, F.hardtanh, torch.tanh])
def test_at_the_edge_the_variance_is_kept(function: Callable) -> None:
    found = gain(function, sigma_b=0.1)
    again = gain(function, found.sigma_w * 0.999, 0.1)
    assert again.chi_1 < 1 or again.q > 1.5 * found.q
    square = (found.forward**2) * found.q
    assert found.sigma_w**2 * square + 0.1**2 == pytest.approx(found.q, rel=1e-6)


def test_signals_that_fade_or_grow_without_end() -> None:
    assert gain(torch.relu, 1.0).q == 0
    assert gain(torch.relu, 2.0).q == math.inf
    assert gain(torch.relu, 2**0.5).q == 1
    assert gain(torch.relu, 2.0).chi_1 == pytest.approx(2)
    assert gain(torch.ones_like, 1.0).depth_scale == 0


@pytest.mark.parametrize(
    "activation", [nn.PReLU(), nn.ReLU(inplace=True), nn.GELU(), lambda x: x.clamp(min=0)]
)
def test_modules_and_lambdas_are_welcome_and_left_alone(activation: Callable) -> None:
    before = [p.dtype for p in activation.parameters()] if isinstance(activation, nn.Module) else []
    assert surefoot.gain(activation, 1.2).chi_1 > 0
    after = [p.dtype for p in activation.parameters()] if isinstance(activation, nn.Module) else []
    assert before == after


@pytest.mark.parametrize(
    ("activation", "arguments", "error", "words"),
    [
        ("tanh", {}, TypeError, "elementwise function"),
        (torch.tanh, {"sigma_w": 0.0}, ValueError, "sigma_w > 0"),
        (torch.tanh, {"sigma_w": math.nan}, ValueError, "sigma_w > 0"),
        (torch.tanh, {"sigma_b": -1.0}, ValueError, "sigma_b >= 0"),
        (nn.Softmax(0), {}, ValueError, "elementwise and deterministic"),
        (lambda x: x[:1], {}, ValueError, "elementwise and deterministic"),
        (lambda x: x + torch.rand_like(x), {}, ValueError, "elementwise and deterministic"),
        (nn.Linear(2, 2), {}, ValueError, "failed on a tensor"),
        (torch.square, {}, ValueError, "no weights put this activation"),
    ],
)
def test_bad_input_in_words(
    activation: Callable, arguments: dict[str, float], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        gain(activation, **arguments)
