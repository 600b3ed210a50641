"""The gradient along a line of inputs: brown noise when shallow, white when deep, smooth with
looks-linear weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn

_BALDUZZI = "Balduzzi et al. 2017"
_POINTS, _WIDTH, _NETWORKS = 256, 200, 10
_WHITE = 3 / (_POINTS * _NETWORKS) ** 0.5  # three standard errors of white noise


def _measure(seed: int) -> Result:
    deep = [_gradient(24, None) for _ in range(_NETWORKS)]
    bare = [_gradient(24, None, norm=False) for _ in range(_NETWORKS)]
    residual = [_gradient(50, 0.1) for _ in range(_NETWORKS)]
    shallow = [_shallow() for _ in range(4 * _NETWORKS)]
    grid = torch.linspace(-2, 2, _POINTS).tolist()
    lags = {"brown": _lag(shallow), "white": _lag(deep), "residual": _lag(residual)}
    linear, uncentred = _looks_linear(50), _lag(bare)
    return Result(
        Standing.BORNE_OUT,
        "The gradient of one layer walks like brown noise along its inputs (correlation of "
        f"neighbours {lags['brown']:.2f}); behind 24 layers with batch norm it is white "
        f"({lags['white']:.2f}); behind 50 residual ones it is {lags['residual']:.2f}. With "
        "weights that look linear fifty layers have the same gradient everywhere, exactly. Batch "
        f"norm belongs to the experiment: without it 24 layers are at {uncentred:.2f}.",
        (
            Row("autocorrelation at lag 1, one layer", f"{_BALDUZZI}, figure 1a: a random walk's",
                _brown(), lags["brown"], 0.02),
            Row("autocorrelation at lag 1, 24 layers with batch norm",
                f"{_BALDUZZI}, figures 1b, 2a: white noise's", -1 / _POINTS, lags["white"],
                _WHITE),
            Row("autocorrelation at lag 1, 50 residual layers, beta 0.1",
                f"{_BALDUZZI}, figure 2c: brown-like, above half of brown noise's", _brown() / 2,
                lags["residual"], bound=">"),
            Row("autocorrelation at lag 1, 24 layers without batch norm",
                "inputs grow alike (Cho & Saul 2009): not white, above 0.5", 0.5, uncentred,
                bound=">"),
            Row("variation over the inputs, 50 looks-linear layers", f"{_BALDUZZI}: none", 0.0,
                linear, 1e-9),
        ),
        drawn(
            [Line(name, grid, _scaled(g), colour, expected=True) for name, g, colour in (
                ("1 layer", shallow[0], GOOD), ("24 layers, batch norm", deep[0], BAD),
                ("50 residual layers", residual[0], None))],
            "input", "gradient, over its spread",
        ),
    )  # fmt: skip


def _line_of_inputs() -> torch.Tensor:
    return torch.linspace(-2, 2, _POINTS, dtype=torch.float64)[:, None].requires_grad_()


def _weights(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, columns, dtype=torch.float64)


def _gradient(depth: int, beta: float | None, norm: bool = True) -> torch.Tensor:
    """df/dx of plain layers with batch norm, its statistics held constant, or of branches."""
    x = _line_of_inputs()
    h = x @ _weights(1, _WIDTH)
    for _ in range(depth):
        normed = (h - h.detach().mean(0)) / h.detach().std(0) if norm else h
        branch = F.relu(normed) @ _weights(_WIDTH, _WIDTH, (2 / _WIDTH) ** 0.5)
        h = branch if beta is None else h + beta * branch
    (g,) = torch.autograd.grad((h @ _weights(_WIDTH, 1)).sum(), x)
    return g[:, 0]


def _shallow() -> torch.Tensor:
    """df/dx of one layer of rectifiers whose kinks are spread over the line."""
    x, slopes = _line_of_inputs(), _weights(1, _WIDTH)
    kinks = 4 * torch.rand(_WIDTH, dtype=torch.float64) - 2
    y = F.relu(x @ slopes - slopes * kinks) @ _weights(_WIDTH, 1)
    (g,) = torch.autograd.grad(y.sum(), x)
    return g[:, 0]


def _lag(series: list[torch.Tensor]) -> float:
    """Autocorrelation at lag 1 of all series together, each without its mean: a ratio of sums, for
    theory has a ratio of means."""
    centred = [g - g.mean() for g in series]
    products = sum(float((g[:-1] * g[1:]).sum()) for g in centred)
    return products / sum(float(g.square().sum()) for g in centred)


def _brown() -> float:
    """A random walk's: with P subtracting the mean, the first diagonal of P min(i, j) P over the
    zeroth."""
    steps = np.arange(1, _POINTS + 1)
    mean = np.eye(_POINTS) - 1 / _POINTS
    covariance = mean @ np.minimum.outer(steps, steps) @ mean
    return float(np.trace(covariance, 1) / np.trace(covariance))


def _looks_linear(depth: int) -> float:
    """Largest relative deviation from its mean of the gradient of [relu(h), relu(-h)] [Q; -Q]."""
    x = _line_of_inputs()
    h = x @ _weights(1, _WIDTH)
    for _ in range(depth):
        turn = torch.linalg.qr(_weights(_WIDTH, _WIDTH))[0]
        h = F.relu(h) @ turn - F.relu(-h) @ turn
    (g,) = torch.autograd.grad((h @ _weights(_WIDTH, 1)).sum(), x)
    return float(((g - g.mean()) / g.mean()).abs().max())


def _scaled(g: torch.Tensor) -> list[float]:
    return ((g - g.mean()) / g.std()).tolist()


ENTRY = Entry(
    "white_noise",
    "With depth the gradient turns from brown noise into white noise.",
    f"{_BALDUZZI}, figures 1 and 2",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
