"""Update-to-weight ratio: how far the optimizer really moves the weights in one step."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.views.figures.rows import found, thin
from surefoot.views.figures.style import BLUE, GREEN, LIGHT, ORANGE, PURPLE, log_axis, plain

POINTS = 500
TYPICAL = (1e-4, 1e-2)  # a custom, not a limit: one decade either side of 1e-3


def draw(data: RunData) -> go.Figure | None:
    """Median and the two extreme parameters, or None if no ratio was measured."""
    series = found(data, "update_ratio")
    if series is None:
        return None
    series = thin(series, POINTS)
    ratio = usable(series.last)
    drawn = np.asarray(np.isfinite(ratio).any(axis=1))
    if not drawn.any():
        return None
    steps, ratio = series.steps[drawn], ratio[drawn]
    figure = go.Figure()
    figure.update_layout(template=LIGHT, height=340)
    _band(figure, steps)
    mode = "lines+markers" if len(steps) <= 40 else "lines"
    curves = _curves(data, series, drawn)
    for name, values, color, dash in curves:
        curve = go.Scatter(
            x=steps,
            y=values,
            mode=mode,
            name=name,
            line={"color": color, "dash": dash, "width": 2.5 if dash == "solid" else 1.5},
            marker={"size": 5 if len(steps) > 1 else 8},
            hovertemplate="step %{x:,d}<br>%{y:.3g}<extra>%{fullData.name}</extra>",
        )
        figure.add_trace(curve)
    figure.update_yaxes(
        **log_axis(*_limits([values for _, values, _, _ in curves])), title="update / weights"
    )
    figure.update_xaxes(title="step", tickformat=",d")
    if steps[-1] - steps[0] <= 8:
        figure.update_xaxes(dtick=1)
    return figure


def usable(values: np.ndarray) -> np.ndarray:
    """Ratios that a log axis can show, float64; NaN for zero (frozen) and not finite ones."""
    wide = values.astype(np.float64)
    return np.where(np.isfinite(wide) & (wide > 0), wide, np.nan)


def extremes(ratio: np.ndarray) -> tuple[int, int]:
    """Columns of [S, P] with the lowest and the highest median over the steps.

    Only of the columns that are measured most often: a parameter that moved once is no extreme.
    """
    often = np.isfinite(ratio).sum(axis=0)
    measured = np.flatnonzero((often > 0) & (often >= 0.5 * often.max()))
    middle = np.nanmedian(ratio[:, measured], axis=0)
    return int(measured[middle.argmin()]), int(measured[middle.argmax()])


def _curves(
    data: RunData, series: Series, drawn: np.ndarray
) -> list[tuple[str, np.ndarray, str, str]]:
    """(name, ratios [S], colour, dash): the median, and the highest and lowest parameter.

    Where steps were thinned the extremes keep theirs: the highest shows each bucket's highest
    value, the lowest its lowest.
    """
    ratio = usable(series.last)[drawn]
    curves = [("median of those that move", np.nanmedian(ratio, axis=1), BLUE, "solid")]
    low, high = extremes(ratio)
    top, bottom = usable(series.high)[drawn][:, high], usable(series.low)[drawn][:, low]
    if low == high and (top > curves[0][1]).any():  # one spike of the only one that moves
        curves += [("highest of the steps drawn as one", top, ORANGE, "dash")]
    elif low != high:
        curves += [
            (f"moves most: {_name(data, high)}", top, ORANGE, "dash"),
            (f"moves least: {_name(data, low)}", bottom, PURPLE, "dot"),
        ]
    return curves


def _name(data: RunData, column: int) -> str:
    known = data.layers.parameters
    return plain(known[column].name if column < len(known) else f"parameter {column}", 36)


def _limits(curves: list[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate(curves)
    low = min(float(np.nanmin(values)), TYPICAL[0])
    high = max(float(np.nanmax(values)), TYPICAL[1])
    return float(np.log10(low)) - 0.3, float(np.log10(high)) + 0.3


def _band(figure: go.Figure, steps: np.ndarray) -> None:
    left, right = (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] - 1, steps[0] + 1)
    low, high = TYPICAL
    figure.add_trace(
        go.Scatter(
            x=[left, right, right, left],
            y=[low, low, high, high],
            fill="toself",
            mode="lines",
            line={"color": GREEN, "width": 1, "dash": "dot"},
            opacity=0.35,
            name="typical, not a limit",
            hoverinfo="skip",
        )
    )
