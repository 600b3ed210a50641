"""Sigmoid layers: the gradient vanishes, and it does so without a single saturated unit."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, Line, drawn
from surefoot.lab.measures import gradient_norms, profile, wide_growth
from surefoot.lab.stack import classifier, plain, training
from surefoot.lab.task import CLASSES
from surefoot.lab.trials import tried, typical, watched
from surefoot.lab.wide import chi, variance

_DEPTH, _WIDTH, _STEPS = 30, 512, 60
_FLAT = 0.05  # of the largest slope: a unit below it counts as saturated
_SCHOENHOLZ = "Schoenholz et al. 2017: w^2 E[phi'^2]"


def _measure(seed: int) -> Result:
    curves: list[Line] = []
    grown, flat = {}, {}
    for weights, colour in ((1.0, BAD), (4.0, None), (8.0, None)):
        norms, flat[weights] = _deep(weights)
        q = variance("sigmoid", weights)
        grown[weights] = wide_growth(nn.Sigmoid, weights, variance=q)
        line = profile(f"{weights:g} x Xavier's weights, {flat[weights]:.0%} saturated", norms)
        theory = [chi("sigmoid", weights) ** ((_DEPTH - k) / 2) for k in line.x]
        curves += [
            Line(line.name, line.x, line.y, colour),
            Line("theory", line.x, theory, expected=True),
        ]
    make = training(partial(classifier, nn.Sigmoid, 10, 1.0), seed)
    seen = watched(make, _STEPS)
    proof = tried(make, steps=_STEPS)
    last, trivial = typical(losses(seen)), math.log(CLASSES)
    return Result(
        Standing.IN_PART,
        f"It does not learn, but not because it saturates: with Xavier's weights {flat[1.0]:.0%} "
        f"of the units are saturated, and yet each layer leaves only {grown[1.0] ** 0.5:.2g} of "
        "the gradient's norm, because the slope of a sigmoid is nowhere more than 1/4. Weights of "
        f"eight times that size saturate {flat[8.0]:.0%} and let {grown[8.0] ** 0.5:.2g} through.",
        _rows(grown, flat, last),
        drawn(curves, "layer, from the input", "gradient, relative to the last layer", log_y=True),
        f"Ten sigmoid layers are at a loss of {last:.3g} after {_STEPS} steps; a constant answer "
        f"has {trivial:.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )


def _rows(grown: dict[float, float], flat: dict[float, float], last: float) -> tuple[Row, ...]:
    z = torch.linspace(-20, 20, 4001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(torch.sigmoid(z).sum(), z)
    none = "the variance of z is below 0.3, and saturation begins at |z| = 4.4"
    return (
        Row("largest slope of a sigmoid", "1/4, by algebra", 0.25, float(slope.max()), 1e-12),
        Row("share of saturated units, Xavier's weights", none, 0.0, flat[1.0], 1e-3),
        *(
            Row(
                f"growth of the squared gradient a layer, {weights:g} x Xavier's weights",
                _SCHOENHOLZ,
                chi("sigmoid", weights),
                value,
                0.03 * chi("sigmoid", weights),
            )
            for weights, value in grown.items()
        ),
        Row("saturated at 8 x Xavier's, over Xavier's", "more weight, more saturation", flat[1.0],
            flat[8.0], bound=">"),
        Row("loss of 10 layers after training", "nothing is learned: above 0.95 ln 4",
            0.95 * math.log(CLASSES), last, bound=">"),
    )  # fmt: skip


def _deep(weights: float) -> tuple[list[float], float]:
    """Gradient norms of a deep wide network at its fixed point, and its share of flat units."""
    model = plain(nn.Sigmoid, _DEPTH, _WIDTH, weights)
    x = torch.sigmoid(variance("sigmoid", weights) ** 0.5 * torch.randn(128, _WIDTH))
    norms, flat = gradient_norms(model, x), []
    with torch.no_grad():
        for module in model:
            x = module(x)
            if isinstance(module, nn.Sigmoid):
                flat.append(float((x * (1 - x) < _FLAT / 4).float().mean()))
    return norms, sum(flat) / len(flat)


ENTRY = Entry(
    "sigmoid_vanishing",
    "Sigmoid networks do not learn because their units saturate.",
    "Hochreiter 1991; Glorot & Bengio 2010; the growth by Schoenholz et al. 2017",
    _measure,
    (Cause.SATURATING_ACTIVATION,),
)

if __name__ == "__main__":
    program.main(ENTRY)
