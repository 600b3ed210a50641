"""Clipping: it keeps the loss of an exploding network finite, and leaves the network as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.measures import gradient_norms, growth
from surefoot.lab.stack import classifier, training
from surefoot.lab.task import CLASSES, draw
from surefoot.lab.trials import trained, tried, typical, watched

_DEPTH, _STEPS, _LONG = 10, 60, 400
_TIMES, _CLIP, _RATE = 3.0, 1.0, 0.05
_LEARNED = 0.1  # a loss that counts as having learned the task
_EXPLODING = partial(classifier, nn.ReLU, _DEPTH, _TIMES * 2**0.5)
_SOUND = partial(classifier, nn.ReLU, _DEPTH, 2**0.5)
_VANISHING = partial(classifier, nn.Sigmoid, _DEPTH, 1.0)


def _measure(seed: int) -> Result:
    free, _ = _course(_EXPLODING, seed, None)
    held, after = _course(_EXPLODING, seed, _CLIP)
    sound, _ = _course(_SOUND, seed, None)
    faded, _ = _course(_VANISHING, seed, None)
    faded_held, _ = _course(_VANISHING, seed, _CLIP)
    slow, quick = _until(held), _until(sound)
    grown = growth(after) ** 0.5
    make = training(_EXPLODING, seed, _RATE)
    seen = watched(make, _STEPS)
    exploding = tried(make, ["clipping.norm", "init.kaiming_normal"], steps=_STEPS)
    vanishing = tried(
        training(_VANISHING, seed, _RATE), ["clipping.norm", "activation.relu"], steps=_STEPS
    )
    lines = [
        Line("three times He's weights", range(len(free)), free, BAD),
        Line("the same, clipped at 1", range(_LONG), held),
        Line("He's weights", range(_LONG), sound, GOOD),
        Line("sigmoid, clipped at 1", range(_LONG), faded_held),
    ]
    late = "never came" if slow is None else f"came after {slow} steps"
    return Result(
        Standing.BORNE_OUT,
        f"Without clipping the loss of the exploding network is lost after {len(free)} steps; with "
        f"it the loss stays finite. But clipping does not mend it: a loss of {_LEARNED:g} {late}, "
        f"where sound weights take {quick}, and after {_LONG} clipped steps a layer still "
        f"multiplies the gradient by {grown:.2g}. On the vanishing network it does nothing at all.",
        _rows(free, held, sound, faded, faded_held, grown),
        drawn(lines, "step", "loss", log_y=True, reference=math.log(CLASSES)),
        f"The loss of ten ReLU layers with three times He's weights begins at {free[0]:.3g} and is "
        f"no finite number after {len(free)} steps.",
        seen,
        f"Exploding: {exploding.sentence} Vanishing: {vanishing.sentence}",
        (exploding, vanishing),
    )


def _course(
    model: Callable[[], nn.Sequential], seed: int, clip: float | None
) -> tuple[list[float], list[float]]:
    """The losses, and the norms of the gradient over the layers afterwards."""
    parts = training(model, seed, _RATE)()
    course = trained(*parts, steps=_LONG, clip=clip)
    return course, gradient_norms(parts[0], draw(seed)[0])


def _until(course: list[float]) -> int | None:
    """The first of ten steps in a row below the loss that counts as learned."""
    for k in range(len(course) - 9):
        if max(course[k : k + 10]) < _LEARNED:
            return k
    return None


def _rows(
    free: list[float],
    held: list[float],
    sound: list[float],
    faded: list[float],
    faded_held: list[float],
    grown: float,
) -> tuple[Row, ...]:
    apart = abs(typical(faded_held) - typical(faded))
    slow, quick = _until(held) or _LONG, _until(sound) or _LONG
    finite = sum(math.isfinite(x) for x in held)
    return (
        Row("steps with a finite loss, exploding, not clipped", "explodes: fewer than 10", 10,
            sum(map(math.isfinite, free)), bound="<"),
        Row("steps with a finite loss, exploding, clipped", "a tether: all", _LONG, finite),
        Row(f"loss of the clipped network after {_STEPS} steps", "no cure: above ln 4",
            math.log(CLASSES), typical(held[:_STEPS]), bound=">"),
        Row("loss of the sound network by then", "below 0.1", _LEARNED, typical(sound[:_STEPS]),
            bound="<"),
        Row("steps to learn, clipped over sound", "no cure: more than 3 times as many", 3.0,
            slow / quick, bound=">"),
        Row(f"growth of the gradient a layer, after {_LONG} clipped steps",
            "no cure: what was 3 stays above 2", 2.0, grown, bound=">"),
        Row("difference that clipping makes to the last loss of the vanishing network",
            "it makes no gradient larger: none", 0.0, apart, 0.01),
        Row("loss of the vanishing network, clipped", "no cure: above 0.95 ln 4",
            0.95 * math.log(CLASSES), typical(faded_held), bound=">"),
    )  # fmt: skip


ENTRY = Entry(
    "clipping_tether",
    "Gradient clipping is a tether and not a cure.",
    "Pascanu, Mikolov & Bengio 2013 introduced it, for recurrent networks",
    _measure,
    (Cause.WEIGHTS_TOO_LARGE,),
)

if __name__ == "__main__":
    program.main(ENTRY)
