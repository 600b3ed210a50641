"""Growth through time in recurrent networks."""

from __future__ import annotations

from functools import partial

import torch
from tests.papers import Row, Seen
from torch import nn

from surefoot.probes.recurrence import through_time


def orthogonal(rho: float, steps: int) -> float:
    """||d h_T / d h_1|| of a tanh network at rest, where every slope is one: rho^(T - 1)."""
    torch.manual_seed(0)
    rnn = nn.RNN(8, 32, batch_first=True, bias=False).double()
    with torch.no_grad():
        nn.init.orthogonal_(rnn.weight_hh_l0).mul_(rho)
    logs = through_time(rnn, torch.zeros(4, steps + 1, 8, dtype=torch.float64))
    assert logs is not None
    return 10 ** logs[0]


def violations() -> float:
    """Of 60 random tanh networks, those whose Jacobian exceeds the bound of Pascanu et al."""
    found = 0
    for seed in range(60):
        torch.manual_seed(seed)
        rnn = nn.RNN(5, 24, batch_first=True)
        with torch.no_grad():
            rnn.weight_hh_l0.normal_(std=0.3)
        largest = float(torch.linalg.matrix_norm(rnn.weight_hh_l0.detach().double(), 2))
        logs = through_time(rnn, torch.randn(3, 21, 5))
        assert logs is not None
        # the probe's own logs are relative to the cotangent, so that the bound is largest^20
        found += 10 ** logs[0] > largest**20 * (1 + 1e-6)
    return float(found)


PASCANU = "Pascanu, Mikolov & Bengio 2013"
ROWS = [
    *(
        Row(
            name=f"Jacobian of 50 steps, weights {rho} x orthogonal",
            source=f"{PASCANU}, section 2.1: rho^t",
            seen=Seen.CHECKED,
            theory=rho**50,
            tolerance=1e-9 * rho**50,
            why="rounding of float64",
            measure=partial(orthogonal, rho, 50),
        )
        for rho in (1.1, 0.9)
    ),
    Row(
        name="networks of 60 whose Jacobian exceeds (gamma lambda_1)^t",
        source=f"{PASCANU}, section 2.1: none",
        seen=Seen.CHECKED,
        theory=0.0,
        why="a bound",
        measure=violations,
    ),
]
