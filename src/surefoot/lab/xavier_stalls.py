"""Thirty ReLU layers: with Xavier's weights they stall, with He's they learn."""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.stack import classifier, training
from surefoot.lab.task import CLASSES
from surefoot.lab.trials import best, paired, typical

_DEPTH, _STEPS, _RATES, _SEEDS = 30, 150, (0.01, 0.03), 3
_HE = "He et al. 2015, section 2.2 (an analogue: they trained on ImageNet)"
_STALLS, _LEARNS = f"{_HE}: stalls, at ln 4", f"{_HE}: converges, below half of ln 4"


def _measure(seed: int) -> Result:
    seeds = [100 * k + seed for k in range(_SEEDS)]
    xavier, he = ([_best(weights, s) for s in seeds] for weights in (1.0, 2**0.5))
    trivial = math.log(CLASSES)
    ends = [sum(map(typical, found)) / _SEEDS for found in (xavier, he)]
    return Result(
        Standing.BORNE_OUT,
        f"At the better of two rates, after {_STEPS} steps, thirty layers with Xavier's weights "
        f"are at a loss of {ends[0]:.3g}, where a constant answer has {trivial:.3g}; with weights "
        f"larger by the root of 2 at {ends[1]:.2g} ({paired(xavier, he)}).",
        (
            Row("loss with Xavier's weights, better of 2 rates", _STALLS, trivial,
                ends[0], 0.03),
            Row("loss with He's weights, better of 2 rates", _LEARNS,
                trivial / 2, ends[1], bound="<"),
        ),
        drawn(
            [Line("Xavier's weights", range(_STEPS), xavier[0], BAD),
             Line("He's weights", range(_STEPS), he[0], GOOD)],
            "step", "loss", log_y=True, reference=trivial,
        ),
    )  # fmt: skip


def _best(weights: float, seed: int) -> list[float]:
    """The losses at the better rate."""
    model = partial(classifier, nn.ReLU, _DEPTH, weights)
    return best([training(model, seed, rate) for rate in _RATES], _STEPS)


ENTRY = Entry(
    "xavier_stalls",
    "Thirty ReLU layers converge with He's weights and stall with Xavier's.",
    "He et al. 2015, Delving deep into rectifiers, section 2.2",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
