"""Curves over the steps: panels one above the other, with what thinning and the axis hide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from surefoot.record.series import Series
from surefoot.views.figures.style import GREY, LIGHT, LINES, RED, log_axis

POINTS = 800
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
CURVES = len(DASHES)  # in one panel, each with a colour and a dash of its own


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of the figure: its title and its curves, (name, Series of one column).

    from_zero: whether a linear axis begins at zero; size: height relative to that of others.
    """

    title: str
    curves: Sequence[tuple[str, Series]]
    logarithmic: bool
    from_zero: bool = False
    size: float = 2.0


def stacked(
    panels: Sequence[Panel], strip: float = 0.0, legend: bool = False
) -> tuple[go.Figure, float, float]:
    """The panels above one axis of steps, whose ends are returned as well.

    strip: the size of one more row at the foot, left empty. legend: whether the curves of each
    name appear in one, the first time that they are drawn.
    """
    sizes = [p.size for p in panels] + ([strip] if strip else [])
    figure = make_subplots(
        len(sizes), 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=sizes
    )
    figure.update_layout(template=LIGHT, height=70 + int(95 * sum(sizes)), showlegend=legend)
    low, high = np.inf, -np.inf
    shown: set[str] = set()
    for row, panel in enumerate(panels, 1):
        for i, (name, series) in enumerate(panel.curves[:CURVES]):
            if not len(series):  # measured in the other of two runs
                continue
            _curve(figure, row, name, series, panel.logarithmic, i, name not in shown)
            shown.add(name)
            low, high = min(low, series.steps[0]), max(high, series.steps[-1])
        figure.update_yaxes(title=panel.title, row=row)
        if panel.logarithmic:
            figure.update_yaxes(**log_axis(*_limits(panel), most=4), row=row)
        else:
            mode = "tozero" if panel.from_zero else "normal"
            figure.update_yaxes(exponentformat="power", nticks=5, rangemode=mode, row=row)
    figure.update_xaxes(range=[low - 0.02 * (high - low) - 0.5, high + 0.02 * (high - low) + 0.5])
    figure.update_xaxes(title="step", tickformat=",d", row=len(sizes))
    if high - low <= 8:
        figure.update_xaxes(dtick=1)
    return figure, float(low), float(high)


def spans_decades(*curves: Series) -> bool:
    """Whether values that are all positive differ so much that a linear axis would hide some."""
    values = np.concatenate([_usable(x) for s in curves for x in (s.low, s.high)])
    return bool(values.size and values.min() > 0 and values.max() > 30 * values.min())


def _usable(values: np.ndarray, logarithmic: bool = False) -> np.ndarray:
    return values[np.isfinite(values) & ((values > 0) | (not logarithmic))]


def _limits(panel: Panel) -> tuple[float, float]:
    """log10 limits of a panel's axis, at least one decade apart."""
    curves = [_usable(x, True) for _, s in panel.curves for x in (s.low, s.high, s.last)]
    values = np.concatenate(curves).astype(np.float64)
    if not values.size:
        return -1.0, 0.0
    low, high = float(np.log10(values.min())), float(np.log10(values.max()))
    spare = max(0.0, 1.1 - (high - low)) / 2 + 0.05 * (high - low)
    return low - spare, high + spare


def _curve(
    figure: go.Figure, row: int, name: str, series: Series, log: bool, look: int, key: bool
) -> None:
    """One curve of the `look`-th colour and dash, its envelope where steps were thinned, and its
    marks; `key`: whether it stands in the legend."""
    color, dash = LINES[look], DASHES[look]
    steps, low, high, last = series.steps, series.low[:, 0], series.high[:, 0], series.last[:, 0]
    usable = np.isfinite(low) & np.isfinite(high) & ((low > 0) | (not log))
    if (low[usable] < high[usable]).any():
        envelope = go.Scatter(
            x=np.r_[steps[usable], steps[usable][::-1]],
            y=np.r_[high[usable], low[usable][::-1]],
            fill="toself",
            mode="lines",
            line={"width": 1, "color": color},
            fillcolor=f"rgba{(*bytes.fromhex(color[1:]), 0.25)}",
            name="lowest to highest of the steps drawn as one",
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_trace(envelope, row=row, col=1)
    curve = go.Scatter(
        x=steps,
        y=np.where(np.isfinite(last) & ((last > 0) | (not log)), last, np.nan).astype(np.float64),
        mode="lines+markers" if len(steps) <= 40 else "lines",
        line={"width": 1.8, "color": color, "dash": dash},
        marker={"size": 5 if len(steps) > 1 else 8},
        name=name,
        legendgroup=name,
        showlegend=key,
        hovertemplate="step %{x:,d}<br>%{y:.3g}<extra>%{fullData.name}</extra>",
    )
    figure.add_trace(curve, row=row, col=1)
    lost = ~np.isfinite(last) | np.isinf(high)
    _marks(figure, row, series, log, lost, ("x-thin", RED, "no finite value"))
    if log:
        _marks(figure, row, series, log, last == 0, ("triangle-down-open", GREY, "exactly zero"))


def _marks(
    figure: go.Figure,
    row: int,
    series: Series,
    log: bool,
    where: np.ndarray,
    look: tuple[str, str, str],
) -> None:
    """Marks of that (symbol, colour, reason) at the foot of a panel, for what it cannot show."""
    if not where.any():
        return
    values = np.concatenate([_usable(series.low, log), _usable(series.high, log)])
    symbol, color, reason = look
    marks = go.Scatter(
        x=series.steps[where],
        y=np.full(int(where.sum()), float(values.min()) if values.size else 0.1),
        mode="markers",
        marker={"symbol": symbol, "size": 8, "line": {"color": color, "width": 2}},
        name=reason,
        showlegend=False,
        hovertemplate=f"step %{{x:,d}}<br>{reason}<extra></extra>",
    )
    figure.add_trace(marks, row=row, col=1)
