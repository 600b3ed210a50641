"""The numbers of a run's newest step under the names that dashboards show.

The names are stable: `surefoot/loss` means the same in TensorBoard, W&B, MLflow and the rest. What
was not measured is absent, so that no zero stands for "unknown".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from surefoot.findings import Report, Severity, Verdict
from surefoot.kernels import NONFINITE, NORM, STATISTICS
from surefoot.layers import LayerTable
from surefoot.record.data import RunData

PREFIX = "surefoot"
LOSS = f"{PREFIX}/loss"
GRADIENT_NORM = f"{PREFIX}/gradient_norm"
UPDATE_RATIO = f"{PREFIX}/update_ratio"
LEARNING_RATE = f"{PREFIX}/learning_rate"
LOSS_SCALE = f"{PREFIX}/loss_scale"
NONFINITE_ELEMENTS = f"{PREFIX}/nonfinite"
FINDINGS = f"{PREFIX}/findings"
HEALTHY = f"{PREFIX}/healthy"
# How often a guard has acted so far, by its rungs.
ACTS = {
    "clip": f"{PREFIX}/clipped",
    "skip": f"{PREFIX}/skipped",
    "roll back": f"{PREFIX}/rolled_back",
}
# What each name means, in a sentence that a dashboard can show; a layer's name may follow some.
MEANINGS = {
    LOSS: "Loss of the newest step",
    GRADIENT_NORM: "Euclidean norm of the gradient, NaN if any element of it is not finite",
    UPDATE_RATIO: "Update-to-weight ratio at the newest sampled step, median over the parameters",
    LEARNING_RATE: "Learning rate of the first parameter group",
    LOSS_SCALE: "Factor that GradScaler puts on the loss",
    NONFINITE_ELEMENTS: "Elements of the gradient that are not finite",
    FINDINGS: "Fatal and harmful findings that stand",
    HEALTHY: "1 if nothing fatal or harmful was found so far, else 0",
    ACTS["clip"]: "Steps whose gradient the guard has clipped",
    ACTS["skip"]: "Steps that the guard has held back",
    ACTS["roll back"]: "Times that the guard has gone back to an earlier state",
}
_NONE = np.empty(0)


class Metrics:
    """Makes them for one training; what depends on its layers is laid out once.

    >>> from surefoot.layers import Kind, Layer, Parameter
    >>> table = LayerTable("Net", (Layer("fc", "Linear", Kind.LINEAR, None, True),), (
    ...     Parameter("fc.weight", 0, (2,), "float32", 2), Parameter("fc.bias", 0, (1,), "f", 1)))
    >>> gradient = np.array([3.0, 3, 1, 0, 0, 4, 4, 4, 0, 0])  # norm, max, mean, bad, zeros of each
    >>> Metrics(table).numbers({"gradient": gradient}, layers=True)
    {'surefoot/gradient_norm': 5.0, 'surefoot/nonfinite': 0.0, 'surefoot/gradient_norm/fc': 5.0}
    """

    def __init__(self, table: LayerTable) -> None:
        self._count = len(table.parameters)
        owners = sorted({parameter.layer for parameter in table.parameters})
        places = {layer: k for k, layer in enumerate(owners)}
        self._of = np.array([places[p.layer] for p in table.parameters], np.intp)
        self._titles = [table.title(layer) for layer in owners]

    def numbers(self, rows: Mapping[str, np.ndarray], layers: bool = False) -> dict[str, float]:
        """Those of one step, from the newest row of each quantity (see `signals.QUANTITIES`)."""
        found: dict[str, float] = {}
        _put(found, LOSS, rows.get("loss", _NONE))
        gradient = rows.get("gradient")
        whole = gradient is not None and gradient.size == self._count * len(STATISTICS)
        by_layer: dict[str, float] = {}
        if gradient is not None and whole:
            table = gradient.reshape(-1, len(STATISTICS)).astype(np.float64)
            by_layer = self._gradient(table[:, NORM], table[:, NONFINITE], found, layers)
        updates = rows.get("update_ratio")
        if updates is not None and updates.size == self._count:
            by_layer |= self._updates(updates.astype(np.float64), found, layers)
        rates = rows.get("learning_rate", _NONE)
        _put(found, LEARNING_RATE, rates)
        _put(found, LOSS_SCALE, rows.get("loss_scaling", _NONE))
        if layers:
            for k in range(1, len(rates)):
                _put(found, f"{LEARNING_RATE}/{k}", rates[k:])
        return found | by_layer

    def _gradient(
        self, norms: np.ndarray, bad: np.ndarray, found: dict[str, float], layers: bool
    ) -> dict[str, float]:
        measured = norms == norms
        if not measured.any():
            return {}
        scale = float(np.fmax.reduce(norms))  # so that no square overflows, or is rounded to zero
        scale = scale if 0 < scale < math.inf else 1.0
        squares = np.where(measured, norms / scale, 0.0) ** 2
        bad = np.where(measured, bad, 0.0)
        lost = float(bad.sum())
        found[GRADIENT_NORM] = math.nan if lost else scale * math.sqrt(float(squares.sum()))
        found[NONFINITE_ELEMENTS] = lost
        if not layers:
            return {}
        count = len(self._titles)
        sums = scale * np.sqrt(np.bincount(self._of, squares, count))
        sums[np.bincount(self._of, bad, count) > 0] = np.nan
        seen = np.bincount(self._of, measured, count) > 0
        return self._named(GRADIENT_NORM, sums, seen)

    def _updates(
        self, ratios: np.ndarray, found: dict[str, float], layers: bool
    ) -> dict[str, float]:
        measured = ratios == ratios
        if not measured.any():
            return {}
        found[UPDATE_RATIO] = _median(ratios[measured])
        if not layers:
            return {}
        largest = np.full(len(self._titles), -np.inf)
        np.maximum.at(largest, self._of[measured], ratios[measured])
        return self._named(UPDATE_RATIO, largest, largest > -np.inf)

    def _named(self, name: str, values: np.ndarray, seen: np.ndarray) -> dict[str, float]:
        pairs = zip(self._titles, values.tolist(), seen.tolist(), strict=True)
        return {f"{name}/{title}": value for title, value, known in pairs if known}


def run_metrics(data: RunData, layers: bool = False) -> dict[str, float]:
    """Those of a run as it was read, live or ended: as `Watch.metrics`, from the record.

    A loss that is not finite is infinite there, and counts of a guard are those of the report.
    """
    rows = {name: series.last[-1] for name, series in data.series.items() if len(series)}
    return Metrics(data.layers).numbers(rows, layers) | verdict_metrics(data.report)


def verdict_metrics(report: Report) -> dict[str, float]:
    """What a report counts; an inconclusive one says neither healthy nor ill."""
    harmful = sum(finding.severity is not Severity.ADVICE for finding in report.findings)
    found = {} if report.verdict is Verdict.INCONCLUSIVE else standing_metrics(harmful)
    return found | act_metrics(report.guard.acts if report.guard is not None else None)


def standing_metrics(harmful: int) -> dict[str, float]:
    """The count of what stands, and whether that is none."""
    return {FINDINGS: float(harmful), HEALTHY: float(not harmful)}


def act_metrics(acts: Mapping[str, int] | None) -> dict[str, float]:
    """How often a guard has acted so far; nothing without a guard."""
    if acts is None:
        return {}
    return {name: float(acts.get(rung, 0)) for rung, name in ACTS.items()}


def _put(found: dict[str, float], name: str, row: np.ndarray) -> None:
    """The row's first number, unless it was not measured."""
    if len(row) and row[0] == row[0]:
        found[name] = float(row[0])


def _median(values: np.ndarray) -> float:
    """As `numpy.median`, in a tenth of its time for a few hundred values.

    >>> _median(np.array([3.0, 1.0, 2.0])), _median(np.array([4.0, 1.0]))
    (2.0, 2.5)
    """
    ordered, half = np.sort(values), len(values) // 2
    if len(values) % 2:
        return float(ordered[half])
    return float(ordered[half - 1] + ordered[half]) / 2
