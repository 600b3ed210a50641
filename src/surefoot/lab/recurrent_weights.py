"""Recurrent weights: too large ones explode through time, too small ones forget."""

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
from surefoot.lab.temporal_order import CLASSES, Recurrent, training
from surefoot.lab.trials import trained, tried, typical, watched
from surefoot.lab.wide import chi, critical
from surefoot.probes.recurrence import through_time
from surefoot.record.data import RunData

_LARGE, _SOUND, _SMALL = 4.0, 1.0, 0.1  # spectral radius of the weights from state to state
_RATE, _STEPS, _CLIP = 0.05, 200, 1.0
_WIDTH, _SPAN, _SETTLED, _INPUTS = 512, 40, 10, 0.3
_RADII = (0.5, 1.0, 2.0, 4.0)
_CHEN = "Chen, Pennington & Schoenholz 2018: w^2 E[phi'^2]"


def _measure(seed: int) -> Result:
    profiles = {radius: _profile(radius) for radius in _RADII}
    grown = {radius: _growth(logs) for radius, logs in profiles.items()}
    large, sound, small = (
        training(partial(Recurrent, radius), seed, _RATE, _STEPS)
        for radius in (_LARGE, _SOUND, _SMALL)
    )
    seen, faded = watched(large, _STEPS), watched(small, _STEPS)
    exploding, vanishing = tried(large, steps=_STEPS), tried(small, steps=_STEPS)
    clipped = typical(trained(*large(), steps=_STEPS, clip=_CLIP))
    ends = {
        _LARGE: typical(losses(seen)),
        _SOUND: typical(trained(*sound(), steps=_STEPS)),
        _SMALL: typical(losses(faded)),
    }
    return Result(
        Standing.IN_PART,
        f"The weights do decide: the same network learns at a radius of {_SOUND:g} (a loss of "
        f"{ends[_SOUND]:.2g}), and neither at {_LARGE:g} ({ends[_LARGE]:.3g}; clipped at "
        f"{_CLIP:g}, {clipped:.3g}) nor at {_SMALL:g} ({ends[_SMALL]:.3g}). But the radius is not "
        "the factor, and 1 is not the edge: tanh units that are driven have slopes below 1. At a "
        f"radius of {_LARGE:g} a step back in time multiplies the squared gradient by "
        f"{grown[_LARGE]:.3g} and not by {_LARGE**2:g}, and at 1 by {grown[1.0]:.3g}; with inputs "
        f"of deviation {_INPUTS:g} the edge is at {critical('tanh', _INPUTS):.4g}.",
        _rows(grown, ends, clipped, faded),
        drawn(_lines(profiles), "steps back in time", "gradient, relative to the last state",
              log_y=True, reference=1.0),
        f"With recurrent weights of radius {_LARGE:g} a network of tanh units is at a loss of "
        f"{ends[_LARGE]:.3g} after {_STEPS} steps; a constant answer has {math.log(CLASSES):.3g}.",
        seen,
        f"Radius {_LARGE:g}: {exploding.sentence} Radius {_SMALL:g}: {vanishing.sentence}",
        (exploding, vanishing),
    )  # fmt: skip


def _profile(radius: float) -> list[float]:
    """log10 of the gradient's norm at each state of a wide network, the oldest first, over that at
    the last; each unit is driven by an input of its own, of deviation 0.3."""
    rnn = nn.RNN(_WIDTH, _WIDTH, batch_first=True, bias=False)
    with torch.no_grad():
        rnn.get_parameter("weight_ih_l0").copy_(_INPUTS * torch.eye(_WIDTH))
        rnn.get_parameter("weight_hh_l0").normal_(std=radius / _WIDTH**0.5)
    logs = through_time(rnn, torch.randn(16, _SETTLED + _SPAN, _WIDTH))
    assert logs is not None
    return logs[_SETTLED:]


def _growth(logs: list[float]) -> float:
    """Factor of the squared norm for each step back in time."""
    return 10 ** (2 * (logs[0] - logs[-1]) / (len(logs) - 1))


def _lines(profiles: dict[float, list[float]]) -> list[Line]:
    colours = {_LARGE: BAD, 1.0: GOOD}
    lines = []
    for radius, logs in profiles.items():
        back = range(len(logs), 0, -1)
        theory = [chi("tanh", radius, _INPUTS) ** (t / 2) for t in back]
        lines += [
            Line(f"radius {radius:g}", back, [10**x for x in logs], colours.get(radius)),
            Line("theory", back, theory, expected=True),
        ]
    return lines


def _rows(
    grown: dict[float, float], ends: dict[float, float], clipped: float, faded: RunData
) -> tuple[Row, ...]:
    trivial, root = math.log(CLASSES), faded.report.root
    named = root is not None and root.cause is Cause.RECURRENT_WEIGHTS
    return (
        *(
            Row(f"growth of the squared gradient a step back, radius {radius:g}", _CHEN,
                chi("tanh", radius, _INPUTS), value, 0.05 * chi("tanh", radius, _INPUTS))
            for radius, value in grown.items()
        ),
        Row(f"loss at a radius of {_SOUND:g}", "learns: below a tenth of ln 4", trivial / 10,
            ends[_SOUND], bound="<"),
        Row(f"loss at a radius of {_LARGE:g}", "explodes: above 0.9 ln 4", 0.9 * trivial,
            ends[_LARGE], bound=">"),
        Row(f"the same, clipped at {_CLIP:g}", "no cure: above 0.9 ln 4", 0.9 * trivial, clipped,
            bound=">"),
        Row(f"loss at a radius of {_SMALL:g}", "forgets: above 0.95 ln 4", 0.95 * trivial,
            ends[_SMALL], bound=">"),
        Row(f"cause that surefoot names at {_SMALL:g} is the recurrent weights, 1 for yes",
            "where it was planted", 1.0, float(named)),
    )  # fmt: skip


ENTRY = Entry(
    "recurrent_weights",
    "Through time the recurrent weights decide: with a spectral radius above 1 the gradient "
    "explodes, with one below it vanishes.",
    "Pascanu, Mikolov & Bengio 2013, section 2; the growth by Chen, Pennington & Schoenholz 2018",
    _measure,
    (Cause.RECURRENT_WEIGHTS,),
)

if __name__ == "__main__":
    program.main(ENTRY)
