"""learning_rate.find in a trial: the rate it takes, and the answer that none will work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from surefoot.build import Build, from_parts
from surefoot.trial.arm import Arm, Spec, run_here

FIND = {"remedy": "learning_rate.find", "target": None, "why": "", "parameters": {}}


def line(lr: float) -> Build:
    """A quadratic whose only curvature is 8: gradient descent is stable up to a rate of 1/4."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    x = torch.full((16, 1), 2.0)
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    return from_parts((model, (x, torch.zeros(16, 1)), nn.MSELoss(), sgd))


def arm(make: Any) -> Arm:
    return run_here(make, Spec("x", steps=40, remedies=(FIND,)))


@pytest.mark.parametrize("lr", [1e-6, 30.0])
def test_a_rate_out_of_range_is_brought_into_it(lr: float) -> None:
    without = run_here(lambda: line(lr), Spec("x", steps=40))
    assert not without.losses[-1][1] < 35.0  # of 36 at first
    found = arm(lambda: line(lr))
    assert found.applied == ["learning_rate.find"]
    # The steps that the test made on its own copies are not the training's.
    assert found.steps == 40 and found.losses[0][1] == pytest.approx(36.0)
    assert found.losses[-1][1] < 3.6


def test_where_no_rate_works_it_says_so() -> None:
    def dead() -> Build:
        torch.manual_seed(0)
        layers = [m for _ in range(20) for m in (nn.Linear(16, 16), nn.Sigmoid())]
        model = nn.Sequential(*layers, nn.Linear(16, 2))
        x = torch.randn(64, 16)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        return from_parts((model, (x, (x[:, 0] > 0).long()), nn.CrossEntropyLoss(), sgd))

    found = arm(dead)
    assert not found.applied
    assert "No learning rate will work" in found.refused["learning_rate.find"]
