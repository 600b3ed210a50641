"""Where a run stands, in numbers: what somebody who follows it looks at first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from surefoot.findings import Guarded, Severity
from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.views.figures.rows import (
    found,
    layer_norms,
    layers_with,
    nonfinite,
    root_sum_squares,
    row_of,
    statistic,
)

_FOUND, _BROKEN, _ZERO = 3e6, 2e6, 1e6  # what stands out more than any factor between two numbers


@dataclass(frozen=True, slots=True)
class Against:
    """A number now, and what it usually is: the median of what was finite up to now."""

    now: float
    usual: float

    @property
    def factor(self) -> float:
        """How many times its usual size; NaN where that is zero or one of them is no number."""
        if not (np.isfinite(self.now) and np.isfinite(self.usual) and self.usual > 0):
            return float("nan")
        return self.now / self.usual


@dataclass(frozen=True, slots=True)
class LayerNow:
    """A layer at the newest step. finding: the number of the finding that starts there, 0 without;
    index: in the run's table.

    update: the largest update-to-weight ratio of its parameters, NaN if none was sampled;
    broken: whether its gradient holds NaN or infinity, which its norm leaves out.
    """

    name: str
    gradient: Against
    update: float
    broken: bool
    finding: int = 0
    index: int = -1

    @property
    def standing_out(self) -> float:
        """More of it comes first; -1 for a layer of which nothing is known."""
        if self.finding:
            return _FOUND - self.finding
        if self.broken:
            return _BROKEN
        if self.gradient.now == 0:
            return _ZERO
        factor = self.gradient.factor
        return abs(float(np.log10(factor))) if np.isfinite(factor) else -1.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """A run at its newest step; step: None before the first one, loss: None if it is not seen.

    loss: (now, lowest, first), the latter two NaN if none was finite; rates: the learning rates
    that differ; layers: those that stand out most come first; acts: what a guard did.
    """

    step: int | None
    loss: tuple[float, float, float] | None
    gradient: Against | None
    rates: tuple[float, ...]
    layers: tuple[LayerNow, ...]
    acts: Guarded | None


def vitals(data: RunData) -> Vitals:
    """Those of a run, live or ended."""
    steps = [int(series.steps[-1]) for series in data.series.values() if len(series)]
    norms = statistic(data, "norm")
    total = None if norms is None else root_sum_squares(norms.last)
    gradient = None
    if total is not None and norms is not None:
        rows = layers_with(data, norms.last.shape[1])
        lost = nonfinite(data, rows, norms.steps).any(axis=1)
        now = np.nan if _broken(data).any() else float(total[-1])
        gradient = Against(now, _median(np.where(lost, np.nan, total)[:, None])[0])
    rates = found(data, "learning_rate")
    return Vitals(
        step=max(steps, default=None),
        loss=_loss(found(data, "loss")),
        gradient=gradient,
        rates=() if rates is None else tuple(dict.fromkeys(rates.last[-1].tolist())),
        layers=() if norms is None else _layers(data, norms),
        acts=_acts(data),
    )


def _loss(series: Series | None) -> tuple[float, float, float] | None:
    if series is None:
        return None
    low, last = series.low[:, 0], series.last[:, 0]
    known = np.flatnonzero(np.isfinite(low))
    if not known.size:
        return float(last[-1]), float("nan"), float("nan")
    begun = known[0]
    first = last[begun] if np.isfinite(last[begun]) else low[begun]
    return float(last[-1]), float(low[known].min()), float(first)


def _layers(data: RunData, norms: Series) -> tuple[LayerNow, ...]:
    count = norms.last.shape[1]
    rows = layers_with(data, count)
    of_layers = layer_norms(data, norms.last, rows)
    lost = nonfinite(data, rows, norms.steps)
    usual, broken = _median(np.where(lost, np.nan, of_layers)), _broken(data)
    updates = found(data, "update_ratio")
    ratios = np.full(count, np.nan) if updates is None else updates.last[-1].astype(np.float64)
    places: dict[int, int] = {}
    for k, finding in enumerate(data.report.findings, 1):
        row = row_of(data, finding, rows)
        if row is not None and finding.severity is not Severity.ADVICE:
            places.setdefault(row, k)
    owned: dict[int, list[int]] = {row: [] for row in rows}
    for i, parameter in enumerate(data.layers.parameters[:count]):
        owned[parameter.layer].append(i)
    layers = []
    for k, row in enumerate(rows):
        mine = owned[row]
        moved = [x for x in ratios[[i for i in mine if i < len(ratios)]].tolist() if x == x]
        layers.append(
            LayerNow(
                data.layers.title(row),
                Against(float(of_layers[-1, k]), usual[k]),
                max(moved, default=float("nan")),
                bool(broken[mine].any()),
                places.get(k, 0),
                row,
            )
        )
    return tuple(sorted(layers, key=lambda layer: -layer.standing_out))


def _broken(data: RunData) -> np.ndarray:
    """Whether each parameter's gradient [P] held NaN or infinity at the newest step."""
    counts = statistic(data, "nonfinite")
    return np.zeros(0, bool) if counts is None else np.nan_to_num(counts.last[-1]) > 0


def _median(values: np.ndarray) -> list[float]:
    """Of each column [T, C], over what is finite; NaN where nothing is."""
    columns = (column[np.isfinite(column)] for column in values.T)
    return [float(np.median(column)) if column.size else float("nan") for column in columns]


def _acts(data: RunData) -> Guarded | None:
    """What the report tells of a guard, or, while there is none, what was recorded of its acts."""
    acts = [event for event in data.events if event.kind == "guard"]
    if data.report.guard is not None or not acts:
        return data.report.guard
    first, parameter = acts[0].detail, acts[0].detail.get("parameter")
    return Guarded(
        acts=dict(Counter(str(act.detail.get("rung")) for act in acts)),
        step=acts[0].step,
        reason=str(first.get("reason", "")),
        parameter=str(parameter) if parameter else None,
        dry_run=bool(first.get("dry_run")),
    )
