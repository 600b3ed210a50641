"""Recurrent explosion: the temporal-order task, with and without clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.temporal_order import BATCH, CLASSES, Recurrent, sequences, training
from surefoot.lab.trials import tried, watched

_RATE, _GENTLE, _MOST, _SEEDS = 0.3, 0.05, 1500, 5
_WATCHED = 200
_PASCANU = "Pascanu, Mikolov & Bengio 2013"


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
    make = training(Recurrent, seeds[0], _RATE, _WATCHED)
    seen, proof = watched(make, _WATCHED), tried(make, ["clipping.norm"], steps=_WATCHED)
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
        f"the largest gradient is {jump:.2g} times the median that clipping finds before it acts. "
        f"But it is the rate that clipping makes bearable: at {_GENTLE:g} {len(slower)} of "
        f"{_SEEDS} learn without it.",
        (
            Row(f"trainings of {_SEEDS} that learn, clipped at 1",
                f"{_PASCANU}, section 4.1.1: all", _SEEDS, len(with_clip)),
            Row(f"trainings of {_SEEDS} that learn with clipping and not without",
                f"{_PASCANU}, section 4.1.1: more than none", 0.5, len(with_clip) - len(without),
                bound=">"),
            Row("largest norm of a gradient, not clipped, over the median where clipped",
                f"{_PASCANU}: it explodes; above 3", 3.0, jump, bound=">"),
            Row(f"trainings of {_SEEDS} that learn at a rate of {_GENTLE:g}, not clipped",
                "at small rates clipping is not needed: at least 3", 2.5, len(slower), bound=">"),
        ),
        drawn(
            [*(Line("not clipped", range(0, len(c.losses), 10), c.losses[::10], BAD)
               for c in free[:2]),
             *(Line("clipped at 1", range(0, len(c.losses), 10), c.losses[::10], GOOD)
               for c in held[:2])],
            "step", "loss", log_y=True, reference=math.log(CLASSES),
        ),
        f"Of {_SEEDS} trainings that are not clipped {_SEEDS - len(without)} never learn the order "
        f"of the two symbols in {_MOST} steps.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _train(seed: int, clip: float | None, rate: float = _RATE) -> _Course:
    """At most 1500 steps, until the task is learned."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Recurrent()
    descent = torch.optim.SGD(model.parameters(), lr=rate)
    losses, norms = [], []
    for step in range(1, _MOST + 1):
        x, y = sequences(BATCH, generator)
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


ENTRY = Entry(
    "recurrent_explosion",
    "Clipping the gradient's norm lets recurrent networks learn what they could not.",
    f"{_PASCANU}, section 4.1.1, the temporal-order task",
    _measure,
    (Cause.LEARNING_RATE_TOO_HIGH,),
)

if __name__ == "__main__":
    program.main(ENTRY)
