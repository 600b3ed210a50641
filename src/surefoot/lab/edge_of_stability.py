"""The edge of stability: full-batch descent raises the curvature to 2 / rate and stays there."""

from __future__ import annotations

import torch
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.task import CLASSES, draw

_COHEN = "Cohen et al. 2021"
_RATES, _STEPS, _EVERY = (0.2, 0.1), 3000, 150
_LATE = 1500


def _measure(seed: int) -> Result:
    found = {rate: _course(rate, seed) for rate in _RATES}
    late = {
        rate: sum(x for step, x in course if step >= _LATE)
        / sum(step >= _LATE for step, _ in course)
        for rate, course in found.items()
    }
    return Result(
        Standing.BORNE_OUT,
        "Curvature times rate over 2 comes to "
        + " and ".join(f"{late[rate]:.3f} at a rate of {rate:g}" for rate in _RATES)
        + ", from "
        + " and ".join(f"{found[rate][0][1]:.2g}" for rate in _RATES)
        + " at the start: the rate decides where descent ends, and hovering at 1 is no fault.",
        tuple(
            Row(f"curvature x rate / 2 in steps {_LATE} to {_STEPS}, rate {rate:g}",
                f"{_COHEN}: 1, and just above", 1.0, late[rate], 0.05)
            for rate in _RATES
        ),
        drawn(
            [Line(f"rate {rate:g}", [s for s, _ in c], [x for _, x in c])
             for rate, c in found.items()],
            "step", "curvature x rate / 2", reference=1.0,
        ),
    )  # fmt: skip


def _course(rate: float, seed: int) -> list[tuple[int, float]]:
    """(step, curvature times rate over 2) along full-batch gradient descent on squared error."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, CLASSES))
    inputs, labels = draw(seed)
    # Labels that are partly random are learned late: the curvature rises for longer.
    x, y = inputs[:200], labels[:200].clone()
    y[::3] = torch.randint(CLASSES, y[::3].shape)
    target = nn.functional.one_hot(y, CLASSES).float()
    parameters = list(model.parameters())
    found = []
    for step in range(_STEPS + 1):
        loss = (model(x) - target).square().sum() / len(x)
        if step % _EVERY == 0:
            found.append((step, rate / 2 * _curvature(loss, parameters)))
            loss = (model(x) - target).square().sum() / len(x)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= rate * g
    return found


def _curvature(loss: torch.Tensor, parameters: list[nn.Parameter]) -> float:
    """Largest eigenvalue of the Hessian, by 40 power iterations."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])
    v, value = torch.randn_like(flat), 0.0
    for _ in range(40):
        v = v / v.norm()
        products = torch.autograd.grad(flat, parameters, v, retain_graph=True)
        turned = torch.cat([p.flatten() for p in products])
        value, v = float(v @ turned), turned
    return value


ENTRY = Entry(
    "edge_of_stability",
    "Gradient descent comes to the edge of stability, where curvature is 2 / rate, and goes on.",
    f"{_COHEN}, Gradient descent on neural networks typically occurs at the edge of stability",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
