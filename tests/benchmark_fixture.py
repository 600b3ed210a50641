"""What the tests of the benchmark share: a small training and a short measurement."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.benchmark import Extent
from surefoot.build import Build

FEW = Extent(rounds=6, warm=3)


def small() -> Build:
    draws = random.random(), np.random.rand()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(draws[0] + draws[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batch = torch.randn(16, 4), torch.randint(3, (16,))
    return Build(model, batch, nn.CrossEntropyLoss(), optimizer)


def generators() -> tuple[Any, ...]:
    """The state of every generator that a build may draw from, as plain values."""
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
