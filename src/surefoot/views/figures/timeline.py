"""Timeline: loss, learning rate and gradient norm over the steps, with what happened when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.views.figures.rows import (
    found,
    layers_with,
    nonfinite,
    root_sum_squares,
    statistic,
    thin,
)
from surefoot.views.figures.style import (
    GREY,
    LIGHT,
    LINES,
    MARKS,
    PURPLE,
    RED,
    flag_steps,
    label,
    log_axis,
    plain,
)

POINTS = 800
EVENTS = 400
KINDS = 6  # of events drawn
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
GROUPS = len(DASHES)  # learning-rate curves drawn; more groups than that rarely differ


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of the figure: its title and its curves, (name, Series of one column)."""

    title: str
    curves: list[tuple[str, Series]]
    logarithmic: bool


def draw(data: RunData) -> go.Figure | None:
    """The timeline, or None if nothing of it was measured."""
    panels = [p for p in (_loss(data), _learning_rate(data), _gradient(data)) if p is not None]
    if not panels:
        return None
    strip = [1] if data.events else []
    weights = [2 if p.title != "learning rate" else 1 for p in panels] + [x * 0.8 for x in strip]
    figure = make_subplots(
        len(weights), 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=weights
    )
    figure.update_layout(template=LIGHT, height=70 + int(95 * sum(weights)), showlegend=False)
    low, high = np.inf, -np.inf
    for row, panel in enumerate(panels, 1):
        for i, (name, series) in enumerate(panel.curves):
            _curve(figure, row, name, series, panel.logarithmic, (LINES[i], DASHES[i]))
            low, high = min(low, series.steps[0]), max(high, series.steps[-1])
        figure.update_yaxes(title=panel.title, row=row)
        if panel.logarithmic:
            figure.update_yaxes(**log_axis(*_limits(panel), most=4), row=row)
        else:
            mode = "tozero" if panel.title == "learning rate" else "normal"
            figure.update_yaxes(exponentformat="power", nticks=5, rangemode=mode, row=row)
    if strip:
        _events(figure, data, len(weights))
    _mark_findings(figure, data, low, high)
    figure.update_xaxes(range=[low - 0.02 * (high - low) - 0.5, high + 0.02 * (high - low) + 0.5])
    figure.update_xaxes(title="step", tickformat=",d", row=len(weights))
    if high - low <= 8:
        figure.update_xaxes(dtick=1)
    return figure


def _loss(data: RunData) -> Panel | None:
    series = found(data, "loss")
    if series is None:
        return None
    series = thin(series, POINTS)
    return Panel("loss", [("loss", series)], _spans_decades(series))


def _learning_rate(data: RunData) -> Panel | None:
    series = found(data, "learning_rate")
    if series is None:
        return None
    series = thin(series, POINTS)
    curves: list[tuple[str, Series]] = []
    for group in range(series.last.shape[1]):
        column = series.columns(slice(group, group + 1))
        if not any(np.array_equal(column.last, c.last, equal_nan=True) for _, c in curves):
            curves.append((f"group {group}", column))
    return Panel("learning rate", curves[:GROUPS], _spans_decades(series))


def _gradient(data: RunData) -> Panel | None:
    """The norm of all gradients together; infinite where any element of any was not finite.

    In a thinned bucket, low and high are bounds: the parameters' extremes need not have come in
    the same step.
    """
    series = statistic(data, "norm")
    if series is None:
        return None
    series = thin(series, POINTS)
    low, high, last = (root_sum_squares(x) for x in (series.low, series.high, series.last))
    broken = nonfinite(data, layers_with(data, series.high.shape[1]), series.steps).any(axis=1)
    high[broken] = last[broken] = np.inf
    one = Series(series.steps, low[:, None], high[:, None], last[:, None])
    return Panel("gradient norm", [("all layers", one)], True)


def _usable(values: np.ndarray, logarithmic: bool = False) -> np.ndarray:
    return values[np.isfinite(values) & ((values > 0) | (not logarithmic))]


def _spans_decades(series: Series) -> bool:
    values = np.concatenate([_usable(series.low), _usable(series.high)])
    return bool(values.size and values.min() > 0 and values.max() > 30 * values.min())


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
    figure: go.Figure, row: int, name: str, series: Series, log: bool, look: tuple[str, str]
) -> None:
    """One curve of that (colour, dash), its envelope where steps were thinned, and its marks."""
    color, dash = look
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
        hovertemplate="step %{x:,d}<br>%{y:.3g}<extra>" + name + "</extra>",
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
        hovertemplate=f"step %{{x:,d}}<br>{reason}<extra></extra>",
    )
    figure.add_trace(marks, row=row, col=1)


def _events(figure: go.Figure, data: RunData, row: int) -> None:
    """A strip of marks, one line a kind of event; of very many, an even selection."""
    chosen = data.events[:: len(data.events) // EVENTS + 1]
    names = [plain(event.detail.get("kind", event.kind), 24) for event in chosen]
    for kind in list(dict.fromkeys(names))[:KINDS]:
        steps = [event.step for event, name in zip(chosen, names, strict=True) if name == kind]
        marks = go.Scatter(
            x=steps,
            y=[kind] * len(steps),
            mode="markers",
            marker={"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": PURPLE}},
            name=kind,
            hovertemplate="step %{x:,d}<extra>%{y}</extra>",
        )
        figure.add_trace(marks, row=row, col=1)
    figure.update_yaxes(type="category", title="events", showgrid=False, row=row)


def _mark_findings(figure: go.Figure, data: RunData, low: float, high: float) -> None:
    """A dashed line through all panels where a finding begins, with its number on top."""
    at: dict[float, list[str]] = {}
    for i, finding in enumerate(data.report.findings, 1):
        step = float(np.clip(finding.first_step, low, high))
        at.setdefault(step, []).append(f"{i} {label(finding)}")
    for step in sorted(at)[:MARKS]:
        line = {"dash": "dash", "color": GREY, "width": 1}
        figure.add_shape(type="line", x0=step, x1=step, yref="paper", y0=0, y1=1, line=line)
    flag_steps(figure, at, low, high)
