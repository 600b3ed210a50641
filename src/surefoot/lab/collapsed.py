"""Deep plain ReLU networks: the gradient keeps its size, and no longer knows its input."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.measures import alike, wide_growth
from surefoot.lab.stack import classifier, plain, training
from surefoot.lab.task import CLASSES
from surefoot.lab.trials import tried, typical, watched
from surefoot.lab.wide import signals

_DEPTH, _WIDTH, _STEPS, _NETWORKS = 50, 512, 60, 4
_CHO = "Cho & Saul 2009, eq. 5: c' = k1(c), from 0"


def _measure(seed: int) -> Result:
    measured, doubled = _cosines(1.0), _cosines(2.0)[-1]
    theory = _map(_DEPTH)
    grown = wide_growth(nn.ReLU, 2**0.5)
    make = training(partial(classifier, nn.ReLU, _DEPTH, 2**0.5), seed)
    seen = watched(make, _STEPS)
    proof = tried(make, steps=_STEPS)
    last, trivial = typical(losses(seen)), math.log(CLASSES)
    layers = range(1, _DEPTH + 1)
    return Result(
        Standing.IN_PART,
        f"He's weights do keep the gradient's size (a layer multiplies its square by {grown:.3g}), "
        f"and fifty layers are still at a loss of {last:.3g} after {_STEPS} steps. What is lost is "
        "the input: after fifty layers the cosine of two unrelated inputs is "
        f"{measured[-1]:.3f}, so that the head can hardly tell them apart. No scale of the weights "
        f"mends that: with twice as large ones it is {doubled:.3f}.",
        (
            Row("growth of the squared gradient a layer", "He et al. 2015: w^2 / 2 = 1", 1.0, grown,
                0.03),
            *(Row(f"cosine of unrelated inputs after {d} layers", _CHO, theory[d - 1],
                  measured[d - 1], 0.03)
              for d in (1, 2, 5, 10, 20, 50)),
            Row(f"the same after {_DEPTH} layers, weights twice as large",
                "ReLU is homogeneous: the same", theory[-1], doubled, 0.03),
            Row("loss of fifty layers after training", "far from learned: above half of ln 4",
                trivial / 2, last, bound=">"),
        ),
        drawn(
            [Line("measured", layers, measured), Line("theory", layers, theory, expected=True)],
            "layers", "cosine of unrelated inputs",
        ),
        f"Fifty ReLU layers with He's weights are at a loss of {last:.3g} after {_STEPS} steps; a "
        f"constant answer has {trivial:.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _cosines(times: float) -> list[float]:
    """Mean cosine of different inputs behind each layer, of four networks with so many times He's
    weights."""
    whole = [0.0] * _DEPTH
    with torch.no_grad():
        for _ in range(_NETWORKS):
            model = plain(nn.ReLU, _DEPTH, _WIDTH, times * 2**0.5)
            x, layer = torch.randn(64, _WIDTH), 0
            for module in model:
                x = module(x)
                if isinstance(module, nn.ReLU):
                    whole[layer] += alike(x) / _NETWORKS
                    layer += 1
    return whole


def _map(depth: int) -> list[float]:
    c, found = 0.0, []
    for _ in range(depth):
        c = signals(c)
        found.append(c)
    return found


ENTRY = Entry(
    "collapsed",
    "With He's initialisation a plain ReLU network can be as deep as one likes.",
    "He et al. 2015, section 2.2; Cho & Saul 2009 for what becomes of the inputs",
    _measure,
    (Cause.DEPTH_WITHOUT_SKIP,),
)

if __name__ == "__main__":
    program.main(ENTRY)
