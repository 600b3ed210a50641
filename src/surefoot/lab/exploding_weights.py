"""Explosion: the weights are to blame, and a sigmoid needs ten times Xavier's to explode."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.measures import wide_growth
from surefoot.lab.stack import classifier, training
from surefoot.lab.trials import outcome, tried, typical, watched
from surefoot.lab.wide import chi, critical, variance
from surefoot.theory.gain import gain
from surefoot.trial.proof import Outcome

_STEPS, _LARGE = 60, 32.0
_SCHOENHOLZ = "Schoenholz et al. 2017: w^2 E[phi'^2]"
_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def _measure(seed: int) -> Result:
    edge = critical("sigmoid")
    grown = {
        w: wide_growth(nn.Sigmoid, w, variance=variance("sigmoid", w)) for w in (*_SCALES, edge)
    }
    make = training(partial(classifier, nn.Sigmoid, 10, _LARGE), seed)
    seen = watched(make, _STEPS)
    proof = tried(make, steps=_STEPS)
    last = typical(losses(seen))
    along = [1.25**k for k in range(17)]
    lines = [
        Line("measured, sigmoid", sorted(grown), [grown[w] for w in sorted(grown)]),
        Line("theory", along, [chi("sigmoid", w) for w in along], expected=True),
    ]
    # Smaller weights alone lead from an explosion into vanishing: this is seen and not assumed.
    smaller = outcome(proof, "init.rescale")
    also = (
        " Smaller weights alone do not save a sigmoid network: below that size its gradient "
        "vanishes."
        if smaller is Outcome.DID_NOT_HELP
        else ""
    )
    return Result(
        Standing.BORNE_OUT,
        "The slope of a sigmoid is at most 1/4 and can only shrink a gradient; what makes it grow "
        f"is the weights. A layer multiplies the squared gradient by {grown[8.0]:.2g} at eight "
        f"times Xavier's scale, by {grown[edge]:.3g} at {edge:.4g} times and by "
        f"{grown[_LARGE]:.3g} at {_LARGE:g} times: it explodes from {edge:.0f} times Xavier's "
        "scale on."
        + also,
        _rows(grown, edge),
        drawn(lines, "weights over Xavier's", "growth of the squared gradient a layer",
              log_x=True, log_y=True, reference=1.0),
        f"Ten sigmoid layers with {_LARGE:g} times Xavier's weights end at a loss of {last:.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _rows(grown: dict[float, float], edge: float) -> tuple[Row, ...]:
    known = "Schoenholz et al. 2017: chi_1 = 1, by another quadrature than surefoot.gain"
    growths = (
        Row(f"growth of the squared gradient a layer, {w:.4g} x Xavier's weights", _SCHOENHOLZ,
            chi("sigmoid", w), value, 0.03 * chi("sigmoid", w))
        for w, value in sorted(grown.items())
    )  # fmt: skip
    return (
        Row(f"chi_1 of a sigmoid at {edge:.4g} x Xavier's weights, by surefoot.gain", known, 1.0,
            gain(torch.sigmoid, edge).chi_1, 1e-9),
        *growths,
        Row("growth below that, largest", "chi_1 < 1: vanishes", 1.0, grown[8.0], bound="<"),
        Row("growth above that, smallest", "chi_1 > 1: explodes", 1.0, grown[16.0], bound=">"),
    )  # fmt: skip


ENTRY = Entry(
    "exploding_weights",
    "It is the weights and not the sigmoid that make gradients explode.",
    "Bengio, Simard & Frasconi 1994; the growth by Schoenholz et al. 2017",
    _measure,
    (Cause.WEIGHTS_TOO_LARGE,),
)

if __name__ == "__main__":
    program.main(ENTRY)
