"""Timeline: loss, learning rate and gradient norm over the steps, with what happened when."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.views.figures import events
from surefoot.views.figures.curves import CURVES, POINTS, Panel, spans_decades, stacked
from surefoot.views.figures.rows import (
    found,
    layers_with,
    nonfinite,
    root_sum_squares,
    statistic,
    thin,
)
from surefoot.views.figures.style import GREY, MARKS, flag_steps, label


def draw(data: RunData) -> go.Figure | None:
    """The timeline, or None if nothing of it was measured."""
    measured = (_loss(data), _learning_rate(data), _loss_scale(data), _gradient(data))
    panels = [panel for panel in measured if panel is not None]
    if not panels:
        return None
    strip = events.lines(data)
    figure, low, high = stacked(panels, events.size(strip))
    if strip:
        events.add_strip(figure, strip, len(panels) + 1)
    _mark_findings(figure, data, low, high)
    return figure


def loss(data: RunData) -> Series | None:
    """The loss, thinned to what is drawn."""
    series = found(data, "loss")
    return None if series is None else thin(series, POINTS)


def gradient_norm(data: RunData) -> Series | None:
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
    return Series(series.steps, low[:, None], high[:, None], last[:, None])


def _loss(data: RunData) -> Panel | None:
    series = loss(data)
    return None if series is None else Panel("loss", [("loss", series)], spans_decades(series))


def _learning_rate(data: RunData) -> Panel | None:
    series = found(data, "learning_rate")
    if series is None:
        return None
    series = thin(series, POINTS)
    curves: list[tuple[str, Series]] = []  # more groups than that rarely differ
    for group in range(series.last.shape[1]):
        column = series.columns(slice(group, group + 1))
        if not any(np.array_equal(column.last, c.last, equal_nan=True) for _, c in curves):
            curves.append((f"group {group}", column))
        if len(curves) == CURVES:
            break
    return Panel("learning rate", curves, spans_decades(series), from_zero=True, size=1.0)


def _loss_scale(data: RunData) -> Panel | None:
    """The factor of a GradScaler, None without one."""
    series = found(data, "loss_scaling")
    if series is None or not np.isfinite(series.high[:, 0]).any():
        return None
    scale = thin(series.columns(slice(0, 1)), POINTS)
    return Panel("loss scale", [("scale", scale)], True, size=1.0)


def _gradient(data: RunData) -> Panel | None:
    norm = gradient_norm(data)
    return None if norm is None else Panel("gradient norm", [("all layers", norm)], True)


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
