"""The edge of stability: full-batch descent raises the curvature to 2 / rate and stays there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.measures import sharpness
from surefoot.lab.task import CLASSES, draw

_COHEN = "Cohen et al. 2021"
_RATES, _STEPS, _EVERY = (0.2, 0.1), 3000, 150
_LATE = 1500


@dataclass(frozen=True, slots=True)
class _Course:
    """curvature: times rate over 2, of every 150th step; losses: of the same steps."""

    curvature: list[float]
    losses: list[float]

    @property
    def late(self) -> float:
        """Mean curvature of the second half."""
        tail = self.curvature[_LATE // _EVERY :]
        return sum(tail) / len(tail)

    @property
    def fall(self) -> float:
        """The loss at the end over that in the middle."""
        return self.losses[-1] / self.losses[_LATE // _EVERY]


def _measure(seed: int) -> Result:
    found = {rate: _course(rate, seed) for rate in _RATES}
    return Result(
        Standing.BORNE_OUT,
        "Curvature times rate over 2 comes to "
        + " and ".join(f"{c.late:.3f} at a rate of {rate:g}" for rate, c in found.items())
        + ", from "
        + " and ".join(f"{c.curvature[0]:.2g}" for c in found.values())
        + f" at the start, and from step {_LATE} to {_STEPS} the loss falls all the same, to "
        + " and ".join(f"{c.fall:.2g}" for c in found.values())
        + " of what it was: the rate decides where the curvature ends, and hovering at 1 is no "
        "fault.",
        (
            *(Row(f"curvature x rate / 2 in steps {_LATE} to {_STEPS}, rate {rate:g}",
                  f"{_COHEN}: 1, and just above", 1.0, c.late, 0.05)
              for rate, c in found.items()),
            *(Row(f"loss at step {_STEPS} over that at {_LATE}, rate {rate:g}",
                  f"{_COHEN}: falls over long times, below 1", 1.0, c.fall, bound="<")
              for rate, c in found.items()),
        ),
        drawn(
            [Line(f"rate {rate:g}", range(0, _STEPS + 1, _EVERY), c.curvature)
             for rate, c in found.items()],
            "step", "curvature x rate / 2", reference=1.0,
        ),
    )  # fmt: skip


def _course(rate: float, seed: int) -> _Course:
    """Full-batch gradient descent on squared error."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, CLASSES))
    inputs, labels = draw(seed)
    # Labels that are partly random are learned late: the curvature rises for longer.
    x, y = inputs[:200], labels[:200].clone()
    y[::3] = torch.randint(CLASSES, y[::3].shape)
    target = nn.functional.one_hot(y, CLASSES).float()
    parameters = list(model.parameters())
    curvature, losses = [], []
    for step in range(_STEPS + 1):
        loss = (model(x) - target).square().sum() / len(x)
        if step % _EVERY == 0:
            curvature.append(rate / 2 * sharpness(loss, parameters))
            losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= rate * g
    return _Course(curvature, losses)


ENTRY = Entry(
    "edge_of_stability",
    "Gradient descent comes to the edge of stability, where curvature is 2 / rate, and goes on.",
    f"{_COHEN}, Gradient descent on neural networks typically occurs at the edge of stability",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
