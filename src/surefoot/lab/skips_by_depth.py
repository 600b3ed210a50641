"""What trains at 8 to 100 layers: plain, with batch norm, and with skips."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.stack import classifier, skipped, training
from surefoot.lab.task import CLASSES
from surefoot.lab.trials import best, tried, typical, watched

_DEPTHS, _RATES, _STEPS, _SEEDS = (8, 16, 32, 64, 100), (0.01, 0.05), 60, 2
_DEEPEST = _DEPTHS[-1]
_KINDS: dict[str, Callable[[int], nn.Module]] = {
    "plain": lambda depth: classifier(nn.ReLU, depth, 2**0.5),
    "batch norm": lambda depth: classifier(nn.ReLU, depth, 2**0.5, norm=nn.BatchNorm1d),
    "batch norm and skips": skipped,
}
_COLOURS = {"plain": BAD, "batch norm": None, "batch norm and skips": GOOD}


def _measure(seed: int) -> Result:
    table = {kind: [_loss(kind, depth, seed) for depth in _DEPTHS] for kind in _KINDS}
    trivial = math.log(CLASSES)
    make = training(partial(_KINDS["plain"], _DEEPEST), seed)
    seen = watched(make, _STEPS)
    proof = tried(make, ["residual.pre_norm"], steps=40, seeds=2)
    lines = [Line(kind, _DEPTHS, found, _COLOURS[kind]) for kind, found in table.items()]
    lost = {k: [d for d, x in zip(_DEPTHS, v, strict=True) if x > trivial / 2]
            for k, v in table.items()}  # fmt: skip
    words = "; ".join(
        f"{kind}: {'all depths learn' if not depths else f'fails from {min(depths)} layers on'}"
        for kind, depths in lost.items()
    )
    return Result(
        Standing.BORNE_OUT,
        f"After {_STEPS} steps at the better of two rates: {words}. The losses of {_DEEPEST} "
        "layers are "
        + ", ".join(f"{found[-1]:.3g} ({kind})" for kind, found in table.items())
        + f"; a constant answer has {trivial:.3g}.",
        _rows(table),
        drawn(lines, "layers", "loss", log_x=True, log_y=True, reference=trivial),
        f"{_DEEPEST} plain layers with He's weights are at a loss of {typical(losses(seen)):.3g} "
        f"after {_STEPS} steps; a constant answer has {trivial:.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )


def _loss(kind: str, depth: int, seed: int) -> float:
    """The last losses at the better rate, mean of the seeds."""
    model = partial(_KINDS[kind], depth)
    courses = (
        best([training(model, 1000 * k + seed, rate) for rate in _RATES], _STEPS)
        for k in range(_SEEDS)
    )
    return sum(map(typical, courses)) / _SEEDS


def _rows(table: dict[str, list[float]]) -> tuple[Row, ...]:
    trivial = math.log(CLASSES)
    he = "He et al. 2016: plain networks degrade with depth, residual ones do not (an analogue)"
    return (
        *(
            Row(f"loss of 8 layers, {kind}", f"{he}: below half of ln 4", trivial / 2, found[0],
                bound="<")
            for kind, found in table.items()
        ),
        *(
            Row(f"loss of {_DEEPEST} layers, {kind}", f"{he}: above half of ln 4", trivial / 2,
                table[kind][-1], bound=">")
            for kind in ("plain", "batch norm")
        ),
        *(
            Row(f"loss of {d} layers, batch norm and skips", f"{he}: below a quarter of ln 4",
                trivial / 4, x, bound="<")
            for d, x in zip(_DEPTHS, table["batch norm and skips"], strict=True)
        ),
    )  # fmt: skip


ENTRY = Entry(
    "skips_by_depth",
    "Skip connections keep networks trainable at depths at which plain ones are not.",
    "He et al. 2016; Balduzzi et al. 2017",
    _measure,
    (Cause.DEPTH_WITHOUT_SKIP,),
)

if __name__ == "__main__":
    program.main(ENTRY)
