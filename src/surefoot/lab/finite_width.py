"""Chance: a narrow deep network at the edge of chaos grows or shrinks its gradient by luck."""

from __future__ import annotations

import math

import numpy as np
import torch

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn

_HANIN = "Hanin & Nica 2018"
_NETWORKS = 300
_SIZES = ((20, 100), (50, 100), (50, 50))  # layers, units


def _measure(seed: int) -> Result:
    logs = {size: _gains(*size) for size in _SIZES}
    rows = []
    for (layers, units), found in logs.items():
        theory = 5 * layers / units
        what = f"{layers} layers of {units} units"
        error = (theory / _NETWORKS) ** 0.5
        # Terms of the next order in layers / units^2 make the mean a little more negative.
        rows += [
            Row(f"variance of ln of the squared gain, {what}", f"{_HANIN}: 5 L / n", theory,
                float(found.var()), 0.3 * theory),
            Row(f"mean, {what}", f"{_HANIN}: -5 L / 2 n, and finite-width terms", -theory / 2,
                float(found.mean()), 3 * error + 0.15 * theory / 2),
        ]  # fmt: skip
    widest = logs[50, 50]
    factor, half = math.exp(float(widest.std()) / 2), math.exp(float(np.median(widest)) / 2)
    curves = [
        Line(f"{layers} layers of {units} units", np.sort(found).tolist(),
             (np.arange(1, _NETWORKS + 1) / _NETWORKS).tolist())
        for (layers, units), found in logs.items()
    ]  # fmt: skip
    return Result(
        Standing.BORNE_OUT,
        "He's weights keep the squared gradient on average only. Of fifty layers of fifty units "
        f"one network differs from the next by a factor of {factor:.2g} in the gradient's norm, "
        f"typically, and half of them shrink it to less than {half:.2g}. A growth within that is "
        "chance and no fault.",
        tuple(rows),
        drawn(curves, "ln of the squared gain", "share of networks below"),
    )


def _gains(layers: int, units: int) -> np.ndarray:
    """ln ||J^T v||^2 over ||v||^2 of all networks [networks]: gates by coin, He's weights."""
    v = torch.randn(_NETWORKS, units, dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True)
    for _ in range(layers):
        weights = torch.randn(_NETWORKS, units, units, dtype=torch.float32) * (2 / units) ** 0.5
        v = torch.einsum("noi,no->ni", weights.double(), v)
        v = v * (torch.rand(_NETWORKS, units) < 0.5)
    return (2 * v.norm(dim=1).log()).numpy()


ENTRY = Entry(
    "finite_width",
    "At the edge of chaos the log of the squared gain is normal with variance 5 L / n and mean "
    "-5 L / 2 n.",
    "Hanin & Nica 2018, Products of many large random matrices",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
