"""Jacobians over time: exact where theory is, and far below the bound where it is a bound."""

from __future__ import annotations

import math

import torch
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.probes.recurrence import through_time

_PASCANU = "Pascanu, Mikolov & Bengio 2013, section 2.1"
_STEPS, _NETWORKS, _SPAN = 50, 60, 20


def _measure(seed: int) -> Result:
    exact = {rho: _orthogonal(rho) for rho in (1.1, 0.9)}
    pairs = [_random() for _ in range(_NETWORKS)]
    above = sum(seen > bound + 1e-6 for seen, bound in pairs)
    loose = sorted(bound - seen for seen, bound in pairs)[_NETWORKS // 2]
    exploding = [seen for seen, bound in pairs if bound > 0]
    shrinking = sum(seen < 0 for seen in exploding)
    order = sorted(pairs, key=lambda p: p[1])
    bounds, values = [10**b for _, b in order], [10**s for s, _ in order]
    return Result(
        Standing.IN_PART,
        f"The bound holds: none of {_NETWORKS} random networks exceeds it. But it is loose, by "
        f"{loose:.1f} decades over {_SPAN} steps at the median, and of {len(exploding)} networks "
        f"whose largest singular value is above 1 {shrinking} shrink the gradient all the same: "
        "it is necessary for an explosion and not sufficient. Where the weights are a multiple of "
        "an orthogonal matrix and the units at rest, it is exact.",
        (
            *(Row(f"Jacobian of {_STEPS} steps, weights {rho:g} x orthogonal", f"{_PASCANU}: rho^t",
                  rho**_STEPS, x, 1e-9 * rho**_STEPS)
              for rho, x in exact.items()),
            Row(f"networks of {_NETWORKS} beyond the bound", f"{_PASCANU}: none", 0.0, above),
            Row("networks above 1 whose gradient shrinks", "necessary, not sufficient: some", 0.5,
                shrinking, bound=">"),
        ),
        drawn(
            [Line("measured", range(1, _NETWORKS + 1), values, marks=True),
             Line("the bound", range(1, _NETWORKS + 1), bounds, expected=True)],
            "network, by its bound", f"Jacobian of {_SPAN} steps", log_y=True, reference=1.0,
        ),
    )  # fmt: skip


def _orthogonal(rho: float) -> float:
    """||d h_T / d h_1|| of a tanh network at rest, where every slope is one."""
    rnn = nn.RNN(8, 32, batch_first=True, bias=False).double()
    with torch.no_grad():
        nn.init.orthogonal_(_weight(rnn)).mul_(rho)
    logs = through_time(rnn, torch.zeros(4, _STEPS + 1, 8, dtype=torch.float64))
    assert logs is not None
    return 10 ** logs[0]


def _weight(rnn: nn.RNN) -> torch.Tensor:
    return rnn.get_parameter("weight_hh_l0")


def _random() -> tuple[float, float]:
    """(log10 of the Jacobian over 20 steps, log10 of the bound) of a random tanh network."""
    rnn = nn.RNN(5, 24, batch_first=True)
    with torch.no_grad():
        _weight(rnn).normal_(std=0.3)
    largest = float(torch.linalg.matrix_norm(_weight(rnn).detach().double(), 2))
    logs = through_time(rnn, torch.randn(3, _SPAN + 1, 5))
    assert logs is not None
    return logs[0], _SPAN * math.log10(largest)


ENTRY = Entry(
    "recurrent_bound",
    "A recurrent network explodes when the largest singular value of its weights is above 1.",
    _PASCANU,
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
