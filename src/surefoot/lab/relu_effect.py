"""ReLU: it lowers the risk of vanishing gradients, and not that of exploding ones."""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.measures import wide_growth
from surefoot.lab.stack import classifier, training
from surefoot.lab.task import CLASSES
from surefoot.lab.trials import tried, typical, watched
from surefoot.lab.wide import chi, variance

_STEPS, _DEPTH, _TIMES = 60, 10, 3.0
_HE = "He et al. 2015, section 2.2: w^2 / 2"


def _measure(seed: int) -> Result:
    grown = {w2: wide_growth(nn.ReLU, w2**0.5) for w2 in (1.0, 2.0, 3.0)}
    sigmoid = {
        w2: wide_growth(nn.Sigmoid, w2**0.5, variance=variance("sigmoid", w2**0.5))
        for w2 in (1.0, 3.0)
    }
    make = training(partial(classifier, nn.ReLU, _DEPTH, _TIMES * 2**0.5), seed)
    seen, proof = watched(make, _STEPS), tried(make, steps=_STEPS)
    others = {
        "sigmoid, Xavier's weights": partial(classifier, nn.Sigmoid, _DEPTH, 1.0),
        "ReLU, Xavier's weights": partial(classifier, nn.ReLU, _DEPTH, 1.0),
        "ReLU, He's weights": partial(classifier, nn.ReLU, _DEPTH, 2**0.5),
    }
    courses = {n: losses(watched(training(model, seed), _STEPS)) for n, model in others.items()}
    courses[f"ReLU, {_TIMES:g} x He's weights"] = ill = losses(seen)
    ends = {name: typical(course) for name, course in courses.items()}
    trivial = math.log(CLASSES)
    rows = (
        *(Row(f"growth a layer, sigmoid with w^2 = {w2:g}",
              "Schoenholz et al. 2017: w^2 E[phi'^2]", chi("sigmoid", w2**0.5), x,
              0.03 * chi("sigmoid", w2**0.5))
          for w2, x in sigmoid.items()),
        *(Row(f"growth a layer, ReLU with w^2 = {w2:g}", _HE, w2 / 2, x, 0.03 * w2 / 2)
          for w2, x in grown.items()),
        Row("loss, sigmoid with Xavier's weights", "vanishes: above 0.95 ln 4", 0.95 * trivial,
            ends["sigmoid, Xavier's weights"], bound=">"),
        Row("loss, ReLU with He's weights", "passes the gradient on: below half of ln 4",
            trivial / 2, ends["ReLU, He's weights"], bound="<"),
        Row(f"largest loss, ReLU with {_TIMES:g} x He's weights",
            "explodes: a hundred times ln 4", 100 * trivial, _largest(ill), bound=">"),
    )  # fmt: skip
    return Result(
        Standing.IN_PART,
        "It does, of vanishing: a layer of ReLU with He's weights multiplies the squared gradient "
        f"by {grown[2.0]:.2g} where one of sigmoids with Xavier's leaves {sigmoid[1.0]:.2g}. Of "
        f"explosion it does not: with w^2 = 3 ReLU multiplies it by {grown[3.0]:.2g} a layer, and "
        f"a sigmoid with the same weights by {sigmoid[3.0]:.2g}.",
        rows,
        drawn(_lines(courses), "step", "loss", log_y=True, reference=trivial),
        f"With {_TIMES:g} times He's weights the loss of ten ReLU layers begins at {ill[0]:.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )


def _largest(course: list[float]) -> float:
    return max(x for x in course if math.isfinite(x))


def _lines(courses: dict[str, list[float]]) -> list[Line]:
    colours = {f"ReLU, {_TIMES:g} x He's weights": BAD, "ReLU, He's weights": GOOD}
    return [Line(n, range(len(c)), c, colours.get(n)) for n, c in courses.items()]


ENTRY = Entry(
    "relu_effect",
    "ReLU lowers the risk of unstable gradients.",
    "Glorot, Bordes & Bengio 2011; the growth by He et al. 2015",
    _measure,
    (Cause.WEIGHTS_TOO_LARGE,),
)

if __name__ == "__main__":
    program.main(ENTRY)
