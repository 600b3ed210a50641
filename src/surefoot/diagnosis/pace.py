"""The pace: how far each step really moves the weights, and what has become of their size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.diagnosis.case import Case

_REACH = 5.0  # of the weights' size, that a run should go in all, were all its steps alike
_SOLID = 1e-3  # rms of a parameter whose update can be told as a share of it


@dataclass(frozen=True, slots=True)
class Pace:
    """Update-to-weight ratios over the weight matrices, as the optimizer applied them.

    early: median over matrices, highest of the first four samples; highest, typical and last:
    largest, median and last over the run of that median; samples: how many were taken; path: all
    steps of the run together at most, as far as the samples tell; fastest: largest of any
    parameter; swift: largest of any matrix; late: largest of that median in the second half of the
    run.
    """

    early: float
    highest: float
    typical: float
    samples: int
    last: float = 0.0
    path: float = 0.0
    fastest: float = 0.0
    late: float = 0.0
    swift: float = 0.0


def sound_pace(steps: int) -> float:
    """An update-to-weight ratio to begin with, so that a run of so many steps gets somewhere.

    Long runs go well at 1e-3; short ones have to make longer steps, up to 3e-2: that is what the
    first updates were in the median over 50 trainings of 60 to 300 steps that learn.

    >>> sound_pace(10_000), sound_pace(500), sound_pace(100)
    (0.001, 0.01, 0.03)
    """
    return min(max(_REACH / max(steps, 1), 1e-3), 3e-2)


def pace(case: Case) -> Pace | None:
    """The pace of a case, None where no update was sampled."""
    return case.once("pace", lambda: _pace(case))


def _pace(case: Case) -> Pace | None:
    ratios = case.get("update_ratio")
    if not len(ratios) or ratios.high.shape[1] != len(case.layers.parameters):
        return None
    matrices = ratios.high[:, case.weight_matrices()].astype(float)
    measured = ~np.isnan(matrices).all(1) if matrices.shape[1] else np.zeros(0, bool)
    if not measured.any():
        return None
    medians = np.nanmedian(matrices[measured], axis=1)
    known = np.isfinite(medians)
    finite = medians[known]
    if not len(finite):
        return Pace(np.inf, np.inf, np.inf, 0)
    at = np.append(ratios.steps[measured][known], case.facts.steps)
    larger = np.maximum(finite, np.append(finite[1:], finite[-1]))
    return Pace(
        early=float(finite[:4].max()),
        highest=float(finite.max()),
        typical=float(np.median(finite)),
        samples=len(finite),
        last=float(finite[-1]),
        path=float(np.sum(larger * np.diff(at).clip(min=0))),
        fastest=_fastest(case, ratios.high.astype(float)),
        swift=_fastest(case, ratios.high.astype(float), case.weight_matrices()),
        late=float(finite[at[:-1] >= case.facts.steps / 2].max(initial=0.0)),
    )


def _fastest(case: Case, ratios: np.ndarray, among: np.ndarray | None = None) -> float:
    """The largest ratio of any parameter that is not next to zero, as a bias may be at first."""
    sizes = case.get("weight")
    wanted = np.ones(ratios.shape[1], bool) if among is None else among
    if len(sizes) and sizes.high.shape[1] == ratios.shape[1]:
        wanted = wanted & (sizes.last[-1] >= _SOLID)
    ratios = ratios[:, wanted]
    known = ratios[np.isfinite(ratios)]
    return float(known.max()) if len(known) else 0.0


def remaining(case: Case) -> float | None:
    """Size of the weights at the end, as a share of what it was at first: of the median matrix.

    None where it was not sampled at two steps. Weights that were zero at first do not count.
    """
    series = case.get("weight")
    if len(series) < 2 or series.high.shape[1] != len(case.layers.parameters):
        return None
    first, last = series.last[0].astype(float), series.last[-1].astype(float)
    known = case.weight_matrices() & (first > 0) & np.isfinite(last)
    return float(np.median(last[known] / first[known])) if known.any() else None
