"""The one-dimensional experiment of Balduzzi et al.: the gradient of a function of one number.

256 points from -2 to 2 go through networks of width 200; the autocorrelation of df/dx along them
tells brown noise, a random walk that remembers where it was, from white noise, that does not. Both
have closed forms on a grid from which the mean is subtracted.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from tests.papers import Row, Seen
from tests.papers.networks import LooksLinear
from torch import nn

POINTS, WIDTH, SEEDS = 256, 200, 10


def inputs() -> torch.Tensor:
    """The grid [256, 1], to be differentiated by."""
    return torch.linspace(-2, 2, POINTS).unsqueeze(1).requires_grad_()


def centred(z: torch.Tensor) -> torch.Tensor:
    """Batch norm with its statistics held constant, so that points keep their own gradients."""
    return (z - z.detach().mean(0)) / z.detach().std(0)


@cache
def gradient(depth: int, seed: int, beta: float | None) -> torch.Tensor:
    """df/dx [256] of a network with batch norm: plain, or with branches of scale beta."""
    torch.manual_seed(seed)
    x = inputs()
    h = x @ torch.randn(1, WIDTH)
    for _ in range(depth):
        branch = F.relu(centred(h)) @ (torch.randn(WIDTH, WIDTH) * (2 / WIDTH) ** 0.5)
        h = branch if beta is None else h + beta * branch
    (g,) = torch.autograd.grad((h @ torch.randn(WIDTH, 1)).sum(), x)
    return g[:, 0].double()


def shallow(seed: int) -> torch.Tensor:
    """df/dx [256] of one layer of rectifiers whose kinks are spread over the grid."""
    torch.manual_seed(seed)
    x = inputs()
    slopes, kinks = torch.randn(1, WIDTH), 4 * torch.rand(WIDTH) - 2
    y = F.relu(x @ slopes - slopes * kinks) @ torch.randn(WIDTH, 1)
    (g,) = torch.autograd.grad(y.sum(), x)
    return g[:, 0].double()


def autocorrelation(g: torch.Tensor, lag: int) -> float:
    """Of a series from which its mean is subtracted."""
    g = g - g.mean()
    return float((g[:-lag] * g[lag:]).sum() / (g * g).sum())


def measured(depth: int, lag: int, beta: float | None = None) -> float:
    """Mean over ten networks."""
    found = [autocorrelation(gradient(depth, seed, beta), lag) for seed in range(SEEDS)]
    return float(np.mean(found))


def walks(lag: int) -> float:
    """Of ten one-layer networks together: then the theory is a ratio of means, as measured."""
    series = [g - g.mean() for g in map(shallow, range(SEEDS))]
    products = sum(float((g[:-lag] * g[lag:]).sum()) for g in series)
    return products / sum(float((g * g).sum()) for g in series)


def brown(lag: int) -> float:
    """A random walk's: with P subtracting the mean, sum over (i, i + lag) of P min(i, j) P."""
    steps = np.arange(1, POINTS + 1)
    mean = np.eye(POINTS) - 1 / POINTS
    covariance = mean @ np.minimum.outer(steps, steps) @ mean
    return float(np.trace(covariance, lag) / np.trace(covariance))


def looks_linear(depth: int) -> float:
    """Largest relative deviation of the gradient from its mean over the grid, in float64."""
    torch.manual_seed(0)
    x = inputs().double().detach().requires_grad_()
    layers = [LooksLinear(WIDTH, WIDTH) for _ in range(depth)]
    model = nn.Sequential(nn.Linear(1, WIDTH), *layers, nn.Linear(WIDTH, 1)).double()
    (g,) = torch.autograd.grad(model(x).sum(), x)
    return float(((g - g.mean()) / g.mean()).abs().max())


BALDUZZI = "Balduzzi et al. 2017"
NOISE = 3 / (POINTS * SEEDS) ** 0.5
ROWS = [
    Row(
        name="autocorrelation at lag 1, 1 layer",
        source=f"{BALDUZZI}, figure 1a: brown noise",
        seen=Seen.SECOND_HAND,
        theory=brown(1),
        tolerance=0.016,
        why="3 s.e. of 10 random walks of 256 points",
        measure=partial(walks, 1),
    ),
    *(
        Row(
            name=f"autocorrelation at lag {lag}, {depth} layers with batch norm",
            source=f"{BALDUZZI}, figures 1b and 2a: white noise",
            seen=Seen.SECOND_HAND,
            theory=-1 / POINTS,
            tolerance=NOISE,
            why="3 s.e. of 10 white series of 256 points",
            measure=partial(measured, depth, lag),
            quick=depth == 24,
        )
        for depth, lag in ((24, 1), (24, 5), (50, 1))
    ),
    *(
        Row(
            name=f"autocorrelation at lag {lag}, 50 residual layers, beta 0.1",
            source=f"{BALDUZZI}, figure 2c: nearer to brown noise",
            seen=Seen.SECOND_HAND,
            theory=brown(lag) / 2,
            why="half of brown noise's",
            measure=partial(measured, 50, lag, 0.1),
            bound=">",
        )
        for lag in (1, 5)
    ),
    Row(
        name="variation of the gradient over the grid, 50 looks-linear layers",
        source=f"{BALDUZZI}, looks-linear initialisation: none",
        seen=Seen.SECOND_HAND,
        theory=0.0,
        tolerance=1e-9,
        why="rounding of float64",
        measure=partial(looks_linear, 50),
    ),
]
