"""The cliff in the error surface of one recurrent unit, and what clipping does on it."""

from __future__ import annotations

import torch

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn

_PASCANU = "Pascanu, Mikolov & Bengio 2013, figure 6"
_CLIFF = (4.475, -2.2875)  # (w, b), on the steep wall
_TARGET, _RATE, _STEPS = 0.7, 0.05, 300


def _measure(seed: int) -> Result:
    free, norms = _descend(None)
    held, _ = _descend(1.0)
    return Result(
        Standing.BORNE_OUT,
        f"On the wall the gradient is {norms[0]:.3g}: the first step is {_RATE * norms[0]:.2g} "
        f"long, and the unit ends on a plateau at an error of {free[-1]:.2g}. Clipped at 1 it goes "
        f"down the wall to {held[-1]:.2g}.",
        (
            Row("norm of the gradient on the wall", "far above 1, the limit of the clipping", 10.0,
                norms[0], bound=">"),
            Row(f"error after {_STEPS} steps, clipped at 1", f"{_PASCANU}: descends, below 0.01",
                0.01, held[-1], bound="<"),
            Row(f"error after {_STEPS} steps, not clipped",
                f"{_PASCANU}: is thrown off, above 0.05", 0.05, free[-1], bound=">"),
        ),
        drawn(
            [Line("not clipped", range(_STEPS + 1), free, BAD),
             Line("clipped at 1", range(_STEPS + 1), held, GOOD)],
            "step", "error", log_y=True,
        ),
    )  # fmt: skip


def _error(parameters: torch.Tensor) -> torch.Tensor:
    """(sigmoid(x_50) - 0.7)^2 of x_t = w sigmoid(x_(t-1)) + b from x_0 = 0.5."""
    w, b = parameters
    x = torch.tensor(0.5, dtype=torch.float64)
    for _ in range(50):
        x = w * torch.sigmoid(x) + b
    return (torch.sigmoid(x) - _TARGET) ** 2


def _descend(clip: float | None) -> tuple[list[float], list[float]]:
    """(errors, norms of the gradient) along gradient descent from the wall."""
    parameters = torch.tensor(_CLIFF, dtype=torch.float64, requires_grad=True)
    errors, norms = [], []
    for _ in range(_STEPS):
        error = _error(parameters)
        (g,) = torch.autograd.grad(error, parameters)
        errors.append(float(error.detach()))
        norms.append(float(g.norm()))
        if clip is not None:
            g = g * min(1.0, clip / norms[-1])
        with torch.no_grad():
            parameters -= _RATE * g
    return [*errors, float(_error(parameters.detach()))], norms


ENTRY = Entry(
    "clipping_cliff",
    "Near a cliff of the error surface clipping keeps descent from being thrown off.",
    _PASCANU,
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
