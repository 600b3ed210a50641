"""Recurrent explosion: the temporal-order task, with and without clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.trials import tried, watched

_LENGTH, _RATE, _GENTLE, _BATCH, _MOST, _SEEDS = 10, 0.3, 0.05, 20, 1500, 5
_WATCHED = 200
_SYMBOLS, _CLASSES = 6, 4
_PASCANU = "Pascanu, Mikolov & Bengio 2013"


class Order(nn.Module):
    """50 tanh units and a head on the last state, weights N(0, 0.1^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(_SYMBOLS, 50, batch_first=True), nn.Linear(50, _CLASSES)
        for name, p in self.named_parameters():
            nn.init.zeros_(p) if "bias" in name else nn.init.normal_(p, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, symbols] -> scores [batch, classes]."""
        return self.head(self.rnn(x)[0][:, -1])


@dataclass(frozen=True, slots=True)
class _Course:
    """losses; norms: of the gradient before it is clipped; learned: step after which 99 of 100
    fresh sequences were right, None if never."""

    losses: list[float]
    norms: list[float]
    learned: int | None


def _measure(seed: int) -> Result:
    seeds = [seed * 100 + k for k in range(_SEEDS)]
    free = [_train(s, None) for s in seeds]
    held = [_train(s, 1.0) for s in seeds]
    seen = watched(lambda: _parts(seeds[0]), _WATCHED)
    proof = tried(lambda: _parts(seeds[0]), ["clipping.norm"], steps=_WATCHED)
    with_clip = [c.learned for c in held if c.learned is not None]
    without = [c.learned for c in free if c.learned is not None]
    gentle = [_train(s, None, _GENTLE).learned for s in seeds]
    slower = [step for step in gentle if step is not None]
    usual = sorted(n for c in held for n in c.norms)[sum(len(c.norms) for c in held) // 2]
    jump = max(max(c.norms) for c in free) / usual
    slow = max(with_clip, default=0)
    return Result(
        Standing.IN_PART,
        f"At a rate of {_RATE:g} it does: {len(with_clip)} of {_SEEDS} clipped trainings learn the "
        f"order within {slow} steps, and {len(without)} of {_SEEDS} that are not. Without clipping "
        f"the largest gradient is {jump:.2g} times the usual one, and a step along it throws away "
        f"what was learned. But it is the rate that clipping makes bearable: at {_GENTLE:g} "
        f"{len(slower)} of {_SEEDS} learn without it.",
        (
            Row(f"trainings of {_SEEDS} that learn, clipped at 1",
                f"{_PASCANU}, section 4.1.1: all", _SEEDS, len(with_clip)),
            Row(f"trainings of {_SEEDS} that learn with clipping and not without",
                f"{_PASCANU}, section 4.1.1: more than none", 0.5, len(with_clip) - len(without),
                bound=">"),
            Row("largest norm of a gradient, not clipped, over the usual one",
                f"{_PASCANU}: it explodes; above 3", 3.0, jump, bound=">"),
            Row(f"trainings of {_SEEDS} that learn at a rate of {_GENTLE:g}, not clipped",
                "at small rates clipping is not needed: at least 3", 2.5, len(slower), bound=">"),
        ),
        drawn(
            [*(Line("not clipped", range(0, len(c.losses), 10), c.losses[::10], BAD)
               for c in free[:2]),
             *(Line("clipped at 1", range(0, len(c.losses), 10), c.losses[::10], GOOD)
               for c in held[:2])],
            "step", "loss", log_y=True, reference=math.log(_CLASSES),
        ),
        f"Of {_SEEDS} trainings that are not clipped {_SEEDS - len(without)} never learn the order "
        f"of two symbols {_LENGTH} steps apart at most, in {_MOST} steps.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _train(seed: int, clip: float | None, rate: float = _RATE) -> _Course:
    """At most 1500 steps, until the task is learned."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Order()
    descent = torch.optim.SGD(model.parameters(), lr=rate)
    losses, norms = [], []
    for step in range(1, _MOST + 1):
        x, y = sequences(_BATCH, generator)
        descent.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
        losses.append(float(loss.detach()))
        norms.append(float(norm))
        descent.step()
        if step % 50 == 0:
            with torch.no_grad():
                x, y = sequences(1000, generator)
                if float((model(x).argmax(1) == y).float().mean()) >= 0.99:
                    return _Course(losses, norms, step)
    return _Course(losses, norms, None)


def sequences(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Symbols [count, 10, 6], and the classes AA, AB, BA, BB [count].

    A or B stands once near the beginning and once in the middle, elsewhere one of four others.
    """
    symbols = torch.randint(2, _SYMBOLS, (count, _LENGTH), generator=generator)
    first, second = torch.randint(0, 2, (2, count), generator=generator)
    row = torch.arange(count)
    symbols[row, torch.randint(1, 3, (count,), generator=generator)] = first
    symbols[row, torch.randint(4, 6, (count,), generator=generator)] = second
    return F.one_hot(symbols, _SYMBOLS).float(), 2 * first + second


def _parts(seed: int) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    model = Order()
    data = torch.utils.data.TensorDataset(
        *sequences(_BATCH * _WATCHED, torch.Generator().manual_seed(seed))
    )
    batches = torch.utils.data.DataLoader(data, batch_size=_BATCH)
    return model, batches, F.cross_entropy, torch.optim.SGD(model.parameters(), lr=_RATE)


ENTRY = Entry(
    "recurrent_explosion",
    "Clipping the gradient's norm lets recurrent networks learn what they could not.",
    f"{_PASCANU}, section 4.1.1, the temporal-order task",
    _measure,
    (Cause.LEARNING_RATE_TOO_HIGH, Cause.RECURRENT_WEIGHTS),
)

if __name__ == "__main__":
    program.main(ENTRY)
