"""A learning rate too high: the curvature sets the limit, whatever the network is like."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.measures import sharpness
from surefoot.lab.stack import classifier, training
from surefoot.lab.task import CLASSES, draw
from surefoot.lab.trials import tried, typical, watched

_CURVATURE, _TURNS, _STEPS = 10.0, 100, 60
_SOUND, _ILL = 0.05, 10.0
_ALGEBRA = "(1 - rate x curvature)^2t, by algebra"


def _measure(seed: int) -> Result:
    model = partial(classifier, nn.ReLU, 3, 2**0.5)
    make = training(model, seed, _ILL)
    seen = watched(make, _STEPS)
    found = seen.report.root
    proof = tried(make, "prescribed" if found is None else found.remedies[:1], steps=_STEPS)
    sound = losses(watched(training(model, seed, _SOUND), _STEPS))
    ill = losses(seen)
    sharp = _sharpness(model, seed)
    below, above = _valley(0.19), _valley(0.21)
    return Result(
        Standing.BORNE_OUT,
        f"In a valley of curvature {_CURVATURE:g} the limit is 2 / {_CURVATURE:g} = 0.2, sharply: "
        f"at a rate of 0.19 the loss falls to {below:.2g} of where it began within {_TURNS} steps, "
        f"at 0.21 it grows to {above:.2g}. The network begins with a curvature of {sharp:.2g}, "
        f"which allows rates up to about {2 / sharp:.2g}: {_SOUND:g} trains it to a loss of "
        f"{typical(sound):.2g}, and {_ILL:g} ends at {typical(ill):.3g}.",
        (
            Row("loss at a rate of 0.19 over the first", _ALGEBRA, 0.9 ** (2 * _TURNS), below,
                1e-9 * 0.9 ** (2 * _TURNS)),
            Row("loss at a rate of 0.21 over the first", _ALGEBRA, 1.1 ** (2 * _TURNS), above,
                1e-9 * 1.1 ** (2 * _TURNS)),
            Row(f"rate x curvature / 2 of the network at a rate of {_ILL:g}", "unstable above 1",
                1.0, _ILL * sharp / 2, bound=">"),
            Row(f"the same at a rate of {_SOUND:g}", "stable below 1", 1.0, _SOUND * sharp / 2,
                bound="<"),
            Row(f"loss at a rate of {_SOUND:g}", "learns: below a tenth of the first",
                sound[0] / 10, typical(sound), bound="<"),
            Row(f"loss at a rate of {_ILL:g}", "thrown away: above 0.95 ln 4",
                0.95 * math.log(CLASSES), typical(ill), bound=">"),
        ),
        drawn(
            [Line(f"rate {_ILL:g}", range(len(ill)), ill, BAD),
             Line(f"rate {_SOUND:g}", range(len(sound)), sound, GOOD)],
            "step", "loss", log_y=True,
        ),
        f"At a rate of {_ILL:g} three ReLU layers, sound in themselves, go from a loss of "
        f"{ill[0]:.3g} to {typical(ill):.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _valley(rate: float) -> float:
    """Loss over the first one after gradient descent on c x^2 / 2, by autograd in float64."""
    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    for _ in range(_TURNS):
        (g,) = torch.autograd.grad(_CURVATURE * x * x / 2, x)
        with torch.no_grad():
            x -= rate * g
    return float(x.detach() ** 2)


def _sharpness(model: partial[nn.Sequential], seed: int) -> float:
    """Curvature of the loss on the whole task, at the weights as they were drawn."""
    torch.manual_seed(seed)
    made = model()
    x, y = draw(seed)
    return sharpness(nn.functional.cross_entropy(made(x), y), list(made.parameters()))


ENTRY = Entry(
    "learning_rate_high",
    "A learning rate above 2 over the curvature makes the loss grow.",
    "gradient descent on a quadratic; Cohen et al. 2021 for networks",
    _measure,
    (Cause.LEARNING_RATE_TOO_HIGH,),
)

if __name__ == "__main__":
    program.main(ENTRY)
