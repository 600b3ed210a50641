"""The temporal-order task and the recurrent network that learns it.

A or B stands once early and once late in a sequence of four other symbols; which of the two came
when are four classes. A constant answer has a cross-entropy of ln 4, whatever the network is.

Source: Hochreiter & Schmidhuber 1997, task 6a; Pascanu, Mikolov & Bengio 2013, section 4.1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.lab.stack import Make

SYMBOLS, CLASSES, UNITS, BATCH = 6, 4, 50, 20
_STD = 0.1
Places = tuple[int, int]  # the first of some places in a sequence, and the first behind them


class Recurrent(nn.Module):
    """50 tanh units and a head on the last state; weights N(0, 0.1^2), no biases at the start.

    radius: that of the matrix from state to state, for which its weights are N(0, radius^2 / 50).
    """

    def __init__(self, radius: float = _STD * UNITS**0.5) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(SYMBOLS, UNITS, batch_first=True), nn.Linear(UNITS, CLASSES)
        for name, p in self.named_parameters():
            std = radius / UNITS**0.5 if "weight_hh" in name else _STD
            nn.init.zeros_(p) if "bias" in name else nn.init.normal_(p, std=std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, symbols] -> scores [batch, classes]."""
        return self.head(self.rnn(x)[0][:, -1])


def sequences(
    count: int,
    generator: torch.Generator,
    length: int = 10,
    early: Places = (1, 3),
    late: Places = (4, 6),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symbols [count, length, 6], one-hot, and the classes AA, AB, BA, BB [count]."""
    symbols = torch.randint(2, SYMBOLS, (count, length), generator=generator)
    first, second = torch.randint(0, 2, (2, count), generator=generator)
    row = torch.arange(count)
    symbols[row, torch.randint(*early, (count,), generator=generator)] = first
    symbols[row, torch.randint(*late, (count,), generator=generator)] = second
    return F.one_hot(symbols, SYMBOLS).float(), 2 * first + second


def training(model: Callable[[], nn.Module], seed: int, rate: float, steps: int) -> Make:
    """What makes the parts of a training on the task: SGD, each step on 20 fresh sequences."""

    def make() -> tuple[Any, ...]:
        torch.manual_seed(seed)
        made = model()
        data = torch.utils.data.TensorDataset(
            *sequences(BATCH * steps, torch.Generator().manual_seed(seed))
        )
        batches = torch.utils.data.DataLoader(data, batch_size=BATCH)
        return made, batches, F.cross_entropy, torch.optim.SGD(made.parameters(), lr=rate)

    return make
