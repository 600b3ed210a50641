"""Shattered gradients: with batch norm and no skips the gradient becomes white noise over depth."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from surefoot.findings import Cause, Pathology
from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.measures import alike
from surefoot.lab.stack import Residual, classifier, plain, training
from surefoot.lab.trials import checked, trained, tried, typical
from surefoot.lab.wide import coherence, residual_coherence
from surefoot.probes.shattering import shattering
from surefoot.record.data import RunData

_DEPTHS, _WIDTH, _BATCH, _NEAR = (2, 5, 10, 20, 50), 256, 256, 0.01
_STEPS = 40
_KERNELS = "Cho & Saul 2009, eq. 4 to 6: prod k0(c_l)"
_BALDUZZI = "Balduzzi et al. 2017"


def _measure(seed: int) -> Result:
    normed = {d: _plain(d, True)[0] for d in _DEPTHS}
    bare = {d: _plain(d, False) for d in _DEPTHS}
    skipped = {d: _skipped(d) for d in _DEPTHS}
    make = training(partial(classifier, nn.ReLU, 50, 2**0.5, norm=nn.BatchNorm1d), seed)
    seen = checked(make)
    last = typical(trained(*make(), steps=_STEPS))
    proof = tried(make, steps=_STEPS)
    deep, same = bare[50]
    return Result(
        Standing.IN_PART,
        "Depth alone does not do it. With batch norm and no skips it does: fifty layers leave a "
        f"coherence of {normed[50]:.2f} between the gradients of inputs one per cent apart, which "
        f"is white noise. Without batch norm the coherence of the same depth is {deep:.2f}; what "
        f"goes wrong there is that all inputs end up alike (cosine {same:.3f}). With skips and "
        f"batch norm it stays at {skipped[50]:.2f}.",
        _rows(normed, bare, skipped),
        drawn(_lines(normed, bare, skipped), "layers", "coherence of gradients 1 % apart"),
        f"Fifty ReLU layers with batch norm are at a loss of {last:.3g} after "
        f"{_STEPS} steps. {_named(seen)}",
        seen,
        proof.sentence,
        (proof,),
    )


def _named(seen: RunData) -> str:
    found = [f.sentence for f in seen.report.findings if f.pathology is Pathology.SHATTERED]
    return f"Before training: {found[0]}" if found else ""


def _plain(depth: int, norm: bool) -> tuple[float, float]:
    """Coherence of plain layers, and how alike their last hidden representations are: of two
    networks each."""
    found, same = [], []
    for k in range(2):
        model = plain(nn.ReLU, depth, _WIDTH, 2**0.5, norm=nn.BatchNorm1d if norm else None)
        x = torch.randn(_BATCH, _WIDTH)
        found.append(shattering(model, [x], epsilon=_NEAR, seed=k).coherence)
        with torch.no_grad():
            same.append(alike(model[:-1](x)))
    return sum(found) / 2, sum(same) / 2


def _skipped(depth: int) -> float:
    found = []
    for k in range(2):
        blocks = [Residual(_WIDTH) for _ in range(depth)]
        model = nn.Sequential(*blocks, nn.Linear(_WIDTH, 10))
        found.append(shattering(model, [torch.randn(_BATCH, _WIDTH)], seed=k).coherence)
    return sum(found) / 2


def _theory(kind: str, depth: int) -> float:
    if kind == "skips":
        return residual_coherence(depth, 1 / (1 + _NEAR**2) ** 0.5)
    return coherence(depth, _NEAR, normalized=kind == "batch norm")


def _rows(
    normed: dict[int, float], bare: dict[int, tuple[float, float]], skipped: dict[int, float]
) -> tuple[Row, ...]:
    tolerance = {2: 0.01, 5: 0.01, 10: 0.02, 20: 0.1, 50: 0.05}
    return (
        *(
            Row(f"coherence, {d} layers with batch norm", f"{_KERNELS}, centred",
                _theory("batch norm", d), value, tolerance[d])
            for d, value in normed.items()
        ),
        *(
            Row(f"coherence, {d} layers without", _KERNELS, _theory("plain", d), bare[d][0], 0.1)
            for d in (10, 50)
        ),
        Row("coherence, 50 layers without", f"not white noise, against {_BALDUZZI}", 0.5,
            bare[50][0], bound=">"),
        Row("cosine of different inputs after 50 layers without",
            "Cho & Saul 2009: inputs converge, above 0.95", 0.95, bare[50][1], bound=">"),
        Row("coherence, 50 blocks with skips and batch norm", f"{_KERNELS}, centred, with skips",
            _theory("skips", 50), skipped[50], 0.02),
    )  # fmt: skip


def _lines(
    normed: dict[int, float], bare: dict[int, tuple[float, float]], skipped: dict[int, float]
) -> list[Line]:
    along = range(1, 51)
    lines = []
    for name, kind, values, colour in (
        ("batch norm, no skips", "batch norm", [normed[d] for d in _DEPTHS], BAD),
        ("neither", "plain", [bare[d][0] for d in _DEPTHS], None),
        ("batch norm and skips", "skips", [skipped[d] for d in _DEPTHS], GOOD),
    ):
        lines += [
            Line(name, _DEPTHS, values, colour),
            Line("theory", along, [_theory(kind, d) for d in along], expected=True),
        ]
    return lines


ENTRY = Entry(
    "shattered",
    "The gradients of deep plain networks look like white noise, and skip connections keep them "
    "coherent.",
    "Balduzzi et al. 2017, The shattered gradients problem",
    _measure,
    (Cause.NORMALIZATION_WITHOUT_SKIP,),
)

if __name__ == "__main__":
    program.main(ENTRY)
