"""One layer over time: its gradient, how far each step moves it, how large it is, what is zero."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.views.figures.curves import CURVES, POINTS, Panel, spans_decades, stacked
from surefoot.views.figures.rows import found, nonfinite, root_sum_squares, statistic, thin
from surefoot.views.figures.style import plain


def draw(data: RunData, layer: int) -> go.Figure | None:
    """The layer's panels, None if nothing of it was measured or it has no parameters of its own.

    Raises ValueError for a layer that the model does not have.
    """
    count = len(data.layers.layers)
    if not 0 <= layer < count:
        raise ValueError(f"expected a layer from 0 to {count - 1}, got {layer}")
    panels = [
        _gradient(data, layer),
        _parameters(data, layer, "update_ratio", "update / weights", True),
        _parameters(data, layer, "weight", "weights, rms", False),
        _zeros(data, layer),
    ]
    measured = [panel for panel in panels if panel is not None]
    return stacked(measured, legend=True)[0] if measured else None


def _gradient(data: RunData, layer: int) -> Panel | None:
    """The norm of the layer's gradient; infinite where any element of it was not finite.

    In a thinned bucket, low and high are bounds, as of the whole model's.
    """
    series = statistic(data, "norm")
    columns = _columns(data, layer, series)
    if series is None or not columns:
        return None
    series = thin(_pick(series, columns), POINTS)
    low, high, last = (root_sum_squares(x)[:, None] for x in (series.low, series.high, series.last))
    broken = nonfinite(data, [layer], series.steps)
    high, last = np.where(broken, np.inf, high), np.where(broken, np.inf, last)
    if np.isnan(high).all():
        return None
    return Panel("gradient norm", [("whole layer", Series(series.steps, low, high, last))], True)


def _parameters(data: RunData, layer: int, name: str, title: str, log: bool) -> Panel | None:
    """A curve for each parameter of the layer: the largest ones, if they are many."""
    series = found(data, name)
    if series is None:
        return None
    columns = _columns(data, layer, series)
    largest = sorted(columns, key=lambda i: -data.layers.parameters[i].numel)[:CURVES]
    curves = [
        (plain(data.layers.parameters[i].name.rpartition(".")[2]), thin(_pick(series, [i]), POINTS))
        for i in sorted(largest)
    ]
    curves = [(n, s) for n, s in curves if not np.isnan(s.high).all()]
    if not curves:
        return None
    logarithmic = log or spans_decades(*(s for _, s in curves))
    return Panel(title, curves, logarithmic, from_zero=True)


def _zeros(data: RunData, layer: int) -> Panel | None:
    """The share of the layer's gradient elements that are exactly zero."""
    series = statistic(data, "zeros")
    columns = _columns(data, layer, series)
    if series is None or not columns:
        return None
    series = thin(_pick(series, columns), POINTS)
    numel = np.array([data.layers.parameters[i].numel for i in columns], np.float64)
    low, high, last = (
        _share(x.astype(np.float64), numel) for x in (series.low, series.high, series.last)
    )
    if np.isnan(high).all():
        return None
    curve = Series(series.steps, low, high, last)
    return Panel("share of zeros", [("whole layer", curve)], False, from_zero=True, size=1.2)


def _share(zeros: np.ndarray, numel: np.ndarray) -> np.ndarray:
    """Zeros over elements [T, 1] of the parameters that had a gradient, NaN where none had."""
    known = np.isfinite(zeros)
    elements = (known * numel).sum(axis=1, keepdims=True)
    total = np.where(known, zeros, 0.0).sum(axis=1, keepdims=True)
    return np.divide(total, elements, out=np.full_like(total, np.nan), where=elements > 0)


def _columns(data: RunData, layer: int, series: Series | None) -> list[int]:
    """The layer's own parameters that the series has a column for."""
    width = 0 if series is None else series.high.shape[1]
    return [i for i in data.layers.parameters_of(layer) if i < width]


def _pick(series: Series, columns: list[int]) -> Series:
    return Series(
        series.steps, series.low[:, columns], series.high[:, columns], series.last[:, columns]
    )
