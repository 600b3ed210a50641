"""What shattering costs, and what exploding costs, each without the other.

Every arm of `controls` is trained on the digits with the same budget: SGD and Adam, every learning
rate of the same list on two seeds, the best of them then on five others. Reported is the loss on
the training set, whose trivial value is ln 10. Nothing here is published, so nothing is right or
wrong: it is a table, not a row of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from tests.papers.controls import ARMS, DOSES, gauges
from tests.papers.networks import digits
from torch import nn

Make = Callable[[], nn.Module]

STEPS, BATCH = 100, 64
TUNING, FRESH = (0, 1), (2, 3, 4, 5, 6)
RATES: dict[str, tuple[float, ...]] = {
    "SGD": (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03),
}
LOST = 10.0  # a loss of this or more, or none at all, counts as this: the run diverged


@dataclass(frozen=True, slots=True)
class Cost:
    """Losses [5] of the fresh seeds at the best learning rate, and whether it ends the list."""

    losses: tuple[float, ...]
    rate: float
    at_the_end: bool

    def words(self) -> str:
        """Median, range and rate; a star where a rate beyond the list might do better."""
        low, high = min(self.losses), max(self.losses)
        end = "lost" if high >= LOST else f"{high:.2f}"
        star = "*" if self.at_the_end else ""
        return f"{np.median(self.losses):.2f} ({low:.2f} to {end}) at {self.rate:g}{star}"


def train(make: Make, optimizer: str, rate: float, seed: int) -> float:
    """Loss on all 1400 digits after 100 steps."""
    torch.manual_seed(seed)
    model, (x, y) = make(), digits()
    kind = torch.optim.SGD if optimizer == "SGD" else torch.optim.Adam
    descent = kind(model.parameters(), lr=rate, fused=True)
    order = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        batch = torch.randint(0, len(x), (BATCH,), generator=order)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        if step % 10 == 0 and not float(loss.detach()) < 1e3:
            return LOST
        descent.zero_grad()
        loss.backward()
        descent.step()
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x), y))
    return min(loss, LOST) if math.isfinite(loss) else LOST


def cost(make: Make, optimizer: str) -> Cost:
    """Tune, then measure on seeds that were not tuned on."""
    rates = RATES[optimizer]
    tried = [np.mean([train(make, optimizer, rate, seed) for seed in TUNING]) for rate in rates]
    best = int(np.argmin(tried))
    losses = tuple(train(make, optimizer, rates[best], seed) for seed in FRESH)
    return Cost(losses, rates[best], best in (0, len(rates) - 1))


def tables() -> Iterator[Table]:
    """All arms with both optimizers, then ripples of all sizes with Adam."""
    budget = f"loss after {STEPS} steps, best rate, five fresh seeds (constant: 2.30)"
    shown = Table("network", "G, decades", "coherence", "cosine", *RATES, title=budget)
    for arm in ARMS:
        found = [cost(arm.make, optimizer).words() for optimizer in RATES]
        shown.add_row(arm.title, *_gauges(arm.make), *found)
    yield shown
    shown = Table("ripples", "G, decades", "coherence", "cosine", "Adam", title=budget)
    for (slope, frequency), make in DOSES.items():
        name = f"slope {slope}, frequency {frequency:g}"
        shown.add_row(name, *_gauges(make), cost(make, "Adam").words())
    yield shown


def _gauges(make: Callable[[], nn.Sequential]) -> list[str]:
    return [f"{abs(value):.2f}" for value in gauges(make, FRESH[0])]
