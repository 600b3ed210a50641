"""From large initial weights to large gradients: by way of the loss, or past it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.stack import classifier, training
from surefoot.lab.task import CLASSES, draw
from surefoot.lab.trials import tried, watched

_DEPTH, _STEPS = 10, 60
_SCALES = (1.0, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """loss; at_output: norm of its gradient at the scores of a sample, mean; gain: by what the
    gradient grows from the scores to the first layer."""

    loss: float
    at_output: float
    gain: float


def _measure(seed: int) -> Result:
    crossed = {s: _look(s, seed, squared=False) for s in _SCALES}
    squared = {s: _look(s, seed, squared=True) for s in _SCALES}
    make = training(partial(classifier, nn.ReLU, _DEPTH, _SCALES[-1] * 2**0.5), seed)
    seen, proof = watched(make, _STEPS), tried(make, steps=_STEPS)
    one, three = crossed[1.0], crossed[3.0]
    lines = [
        Line("loss, cross-entropy", _SCALES, [crossed[s].loss for s in _SCALES]),
        Line("gradient at the scores, cross-entropy", _SCALES,
             [crossed[s].at_output for s in _SCALES]),
        Line("gradient at the scores, squared error", _SCALES,
             [squared[s].at_output for s in _SCALES]),
        Line("gain to the first layer, drawn to begin where that does", _SCALES,
             [crossed[s].gain / one.gain * one.at_output for s in _SCALES]),
    ]  # fmt: skip
    return Result(
        Standing.IN_PART,
        "Large weights do give a large loss, and large gradients; but with cross-entropy the "
        f"second does not come from the first. At three times He's weights the loss is "
        f"{three.loss:.2g} and the gradient at the scores {three.at_output:.2g} a sample, hardly "
        f"more than the {one.at_output:.2g} of a sound network, because it cannot exceed the root "
        f"of 2. The way back through the weights multiplies it by {three.gain / one.gain:.3g} "
        "more: 3 to the power of the nine matrices between. With squared error the loss's own "
        f"gradient grows as well, to {squared[3.0].at_output:.3g}.",
        _rows(crossed, squared),
        drawn(lines, "weights over He's", "size", log_y=True),
        f"Ten ReLU layers with three times He's weights begin at a loss of {losses(seen)[0]:.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )


def _look(scale: float, seed: int, squared: bool) -> _Seen:
    """One backward pass in float64; the weights of all scales are the same but for their scale."""
    torch.manual_seed(seed)
    model = classifier(nn.ReLU, _DEPTH, scale * 2**0.5).double()
    x, y = draw(seed)
    x = x.double()
    first = model[0](x)
    scores = model[1:](first)
    if squared:
        target = nn.functional.one_hot(y, CLASSES).double()
        loss = 0.5 * (scores - target).square().sum(1).mean()
    else:
        loss = nn.functional.cross_entropy(scores, y)
    (at_scores,) = torch.autograd.grad(loss, scores, retain_graph=True)
    fixed = torch.randn(scores.shape, dtype=torch.float64, generator=_fresh())
    (back,) = torch.autograd.grad(scores, first, fixed)
    return _Seen(
        float(loss.detach()),
        float(at_scores.norm(dim=1).mean()) * len(x),
        float(back.norm() / fixed.norm()),
    )


def _fresh() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _rows(crossed: dict[float, _Seen], squared: dict[float, _Seen]) -> tuple[Row, ...]:
    homogeneous = "s^9 of the nine matrices between: ReLU is homogeneous"
    most = max(x.at_output for x in crossed.values())
    return (
        *(
            Row(f"gain to the first layer, {s:g} x He's over He's", homogeneous, s**9,
                crossed[s].gain / crossed[1.0].gain, 1e-5 * s**9)
            for s in _SCALES[1:]
        ),
        Row("largest gradient of cross-entropy at the scores, a sample",
            "||softmax - one-hot|| < sqrt(2)", math.sqrt(2), most, bound="<"),
        Row("gradient of squared error at the scores, 3 x He's over He's",
            "the scores grow by 3^10, the targets do not: above 100", 100.0,
            squared[3.0].at_output / squared[1.0].at_output, bound=">"),
        Row("cross-entropy at 3 x He's over He's", "the scores grow by 3^10: above 100", 100.0,
            crossed[3.0].loss / crossed[1.0].loss, bound=">"),
    )  # fmt: skip


ENTRY = Entry(
    "initial_weights_loss",
    "Initial weights that are too large give a large loss, and the large loss large gradients.",
    "a common explanation; the algebra is a line",
    _measure,
    (Cause.WEIGHTS_TOO_LARGE,),
)

if __name__ == "__main__":
    program.main(ENTRY)
