"""From columns of a record to the rows of a figure: thinning, layers in order, findings by row."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from surefoot.findings import Finding
from surefoot.kernels import STATISTICS
from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.signals.flow import Call, Flow

Key = tuple[int, int]  # of a call: (layer, how many calls of it came before)


def thin(series: Series, limit: int) -> Series:
    """At most `limit` buckets of the series; each keeps its lowest, highest and last value."""
    if len(series) <= limit:
        return series
    starts = np.linspace(0, len(series), limit, endpoint=False).astype(np.int64)
    ends = np.append(starts[1:], len(series)) - 1
    return Series(
        series.steps[ends],
        np.fmin.reduceat(series.low, starts, axis=0),
        np.fmax.reduceat(series.high, starts, axis=0),
        series.last[ends],
    )


def found(data: RunData, name: str) -> Series | None:
    """The series of that name if it holds any step, else None."""
    series = data.series.get(name)
    return series if series is not None and len(series) and series.high.shape[1] else None


def layers_with(data: RunData, columns: int) -> list[int]:
    """Layers that own at least one of the first `columns` parameters, in execution order."""
    return executed(data, {p.layer for p in data.layers.parameters[:columns]})


def executed(data: RunData, layers: Set[int]) -> list[int]:
    """Some of the layers in the order of the first instrumented step.

    Those that it does not show, or all of them where there is none, keep the table's order behind
    their predecessor in the table.
    """
    first: dict[int, int] = {}
    for call in data.flows[0].calls if data.flows else ():
        first.setdefault(call.layer, call.order)
    keys: dict[int, tuple[int, int]] = {}
    place = -1
    for layer in range(len(data.layers.layers)):
        place = first.get(layer, place) if layer in layers else place
        keys[layer] = (place, layer)
    return sorted(layers & keys.keys(), key=keys.__getitem__)


def layer_norms(data: RunData, values: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Norm of each layer's gradient [T, L] from those of its parameters [T, P], in float64.

    sqrt of the sum of squares over the layer's parameters; NaN where none of them was measured.
    """
    columns: dict[int, list[int]] = {row: [] for row in rows}
    for i, parameter in enumerate(data.layers.parameters[: values.shape[1]]):
        if parameter.layer in columns:
            columns[parameter.layer].append(i)
    norms = [root_sum_squares(values[:, columns[row]]) for row in rows]
    return np.stack(norms, axis=1) if norms else np.empty((len(values), 0))


def root_sum_squares(values: np.ndarray) -> np.ndarray:
    """sqrt(sum x^2) over the columns of [T, C], ignoring NaN; NaN where a row has nothing else."""
    wide = values.astype(np.float64)
    norm = np.sqrt(np.nansum(wide * wide, axis=1))
    norm[np.isnan(wide).all(axis=1)] = np.nan
    return norm


def statistic(data: RunData, name: str) -> Series | None:
    """One of `kernels.STATISTICS` of every parameter's gradient [T, P], None if never measured."""
    series = found(data, "gradient")
    pick = slice(STATISTICS.index(name), None, len(STATISTICS))
    return series.columns(pick) if series is not None else None


def nonfinite(data: RunData, rows: Sequence[int], steps: np.ndarray) -> np.ndarray:
    """Whether any gradient element of a layer was not finite, [T, L], in buckets ending at steps.

    The norm leaves such elements out, so it cannot say.
    """
    mask = np.zeros((len(steps), len(rows)), bool)
    counts = statistic(data, "nonfinite")
    if counts is not None:
        of_layers = layer_norms(data, np.nan_to_num(counts.high), rows)
        place = np.searchsorted(steps, counts.steps)
        at, row = np.nonzero((of_layers > 0) & (place < len(steps))[:, None])
        mask[place[at], row] = True
    return mask


def keyed(flow: Flow) -> dict[Key, Call]:
    """The calls of a step in execution order, each under a key that other steps have as well."""
    counts: dict[int, int] = {}
    calls: dict[Key, Call] = {}
    for call in sorted(flow.calls, key=lambda c: c.order):
        before = counts.get(call.layer, 0)
        counts[call.layer] = before + 1
        calls[call.layer, before] = call
    return calls


def scalar(value: Any) -> float:
    """A number from an event's detail; NaN for anything else, as a record may hold any JSON.

    >>> scalar(2), scalar("inf"), scalar("many"), scalar(None)
    (2.0, inf, nan, nan)
    """
    if isinstance(value, str):
        return {"inf": math.inf, "-inf": -math.inf}.get(value, math.nan)
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else math.nan


def row_of(data: RunData, finding: Finding, rows: Sequence[int]) -> int | None:
    """Place in `rows` of the finding's layer, or of the nearest layer that has a row.

    A container stands at its first child; a layer without weights (an activation) at the last
    row before it. None without a layer, or for one that the table does not know.
    """
    if finding.layer is None:
        return None
    names = [layer.name for layer in data.layers.layers]
    if finding.layer not in names:
        return None
    index = names.index(finding.layer)
    if index in rows:
        return list(rows).index(index)
    inside = [i for i, row in enumerate(rows) if names[row].startswith(f"{finding.layer}.")]
    if inside:
        return inside[0]
    before = [i for i, row in enumerate(rows) if row < index]
    return max(before, key=lambda i: rows[i], default=None)


def edges(steps: np.ndarray) -> np.ndarray:
    """Borders [T + 1] of buckets that end at `steps` [T], half a step after each.

    >>> edges(np.array([0, 1, 2]))
    array([-0.5,  0.5,  1.5,  2.5])
    """
    width = steps[1] - steps[0] if len(steps) > 1 else 1
    start = max(steps[0] - width, -1) if steps[0] >= 0 else steps[0] - width
    return np.concatenate([[start], steps]) + 0.5


def log10(values: np.ndarray) -> np.ndarray:
    """log10 in float64; NaN where the value is zero, negative or not finite."""
    wide = values.astype(np.float64)
    usable = np.isfinite(wide) & (wide > 0)
    return np.log10(wide, out=np.full_like(wide, np.nan), where=usable)
