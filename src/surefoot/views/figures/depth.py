"""Depth profile: one step seen in full, from the loss back to the input and forward again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from surefoot.record.data import RunData
from surefoot.signals.flow import Call, Flow, TensorStats
from surefoot.views.figures.rows import Key, keyed, row_of
from surefoot.views.figures.style import BLUE, GREEN, GREY, LIGHT, ORANGE, RED, log_axis, unique

BAND = 0.87  # decades: four depth scales, see docs/thresholds.md
MIN_DECADES = 2.5  # of each axis: a flat profile looks flat


@dataclass(frozen=True, slots=True)
class Profile:
    """One flow along the rows of the figure: norm of the gradient at each output, and its rms.

    Zeros and values beside non-finite elements are kept; NaN where nothing was measured.
    """

    title: str
    gradient: np.ndarray
    signal: np.ndarray
    bad_gradient: np.ndarray
    bad_signal: np.ndarray


def draw(data: RunData) -> go.Figure | None:
    """The profile of the first and of the last instrumented step, or None without any."""
    keys = order(data)
    if not keys:
        return None
    flows = [data.flows[0], *([data.flows[-1]] if len(data.flows) > 1 else [])]
    profiles = [profile(data, flow, keys) for flow in flows]
    every = np.concatenate([np.r_[p.gradient, p.signal, p.bad_gradient] for p in profiles])
    if not np.isfinite(every).any():
        return None
    names = unique([data.layers.title(layer) for layer, _ in keys])
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    figure.update_layout(template=LIGHT, height=int(np.clip(170 + 24 * len(names), 260, 760)))
    _band(figure, profiles[0], names)
    for column, attribute in ((1, "gradient"), (2, "signal")):
        left, right = axis_range([getattr(p, attribute) for p in profiles])
        gutter = 0.05 * (right - left)  # to the left of all values, for what has no value
        for i, one in enumerate(profiles):
            line(figure, one, attribute, names, i, column, 10**left)
        figure.update_xaxes(**log_axis(left - gutter, right, most=5), col=column)
    figure.update_xaxes(title="gradient arriving (norm)", col=1)
    figure.update_xaxes(title="signal leaving (rms)", col=2)
    figure.update_yaxes(type="category", categoryarray=names, range=[-0.6, len(names) - 0.4])
    figure.update_yaxes(showgrid=len(names) <= 40)
    _mark_origin(figure, data, keys)
    return figure


def order(data: RunData) -> list[Key]:
    """Rows of the figure: calls of weighted layers in execution order, all leaves if too few."""
    if not data.flows:
        return []
    leaves: dict[Key, Call] = {}
    for flow in (data.flows[0], data.flows[-1]):
        for key, call in keyed(flow).items():
            if data.layers.layers[call.layer].leaf:
                leaves.setdefault(key, call)
    weighted = [k for k in leaves if data.layers.layers[k[0]].kind.weighted]
    return weighted if len(weighted) > 1 else list(leaves)


def profile(data: RunData, flow: Flow, keys: list[Key], title: str | None = None) -> Profile:
    """The figure's numbers for one flow, along `keys`; titled by its step if not otherwise."""
    calls = keyed(flow)
    outputs = [calls[k].output if k in calls else None for k in keys]
    gradients = [calls[k].grad_output if k in calls else None for k in keys]
    step = f"step {flow.step:,}" + (" (re-executed)" if flow.replayed else "")
    return Profile(
        step if title is None else title,
        np.array([np.nan if s is None else s.norm for s in gradients], np.float64),
        np.array([np.nan if s is None else s.rms for s in outputs], np.float64),
        np.array([_bad(s) for s in gradients]),
        np.array([_bad(s) for s in outputs]),
    )


def reference(one: Profile) -> float | None:
    """Gradient norm at the last interior layer: before the head, which is scaled on its own."""
    inner = one.gradient[:-1] if len(one.gradient) > 2 else one.gradient
    usable = inner[np.isfinite(inner) & (inner > 0)]
    return float(usable[-1]) if usable.size else None


def _bad(stats: TensorStats | None) -> bool:
    return stats is not None and (stats.nonfinite > 0 or not np.isfinite(stats.norm))


def axis_range(rows: list[np.ndarray]) -> tuple[float, float]:
    """log10 limits of an axis: all drawable values, at least MIN_DECADES wide, and a margin."""
    values = np.concatenate(rows)
    logs = np.log10(values[np.isfinite(values) & (values > 0)])
    low, high = (float(logs.min()), float(logs.max())) if logs.size else (-1.0, 0.0)
    spare = max(0.0, MIN_DECADES - (high - low)) / 2
    margin = 0.06 * (high - low + 2 * spare) + 0.1
    return low - spare - margin, high + spare + margin


def _band(figure: go.Figure, first: Profile, names: list[str]) -> None:
    middle = reference(first)
    if middle is None:
        return
    low, high = middle * 10**-BAND, middle * 10**BAND
    figure.add_trace(
        go.Scatter(
            x=[low, low, high, high],
            y=[names[0], names[-1], names[-1], names[0]],
            fill="toself",
            mode="lines",
            line={"color": GREEN, "width": 1, "dash": "dot"},
            opacity=0.35,
            name="healthy band, 7.4x either way",
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )


def line(
    figure: go.Figure,
    one: Profile,
    attribute: str,
    names: list[str],
    i: int,
    column: int,
    edge: float,
) -> None:
    """The `i`-th profile in one panel, with marks at `edge` for what a log axis cannot show."""
    values, bad = getattr(one, attribute), getattr(one, f"bad_{attribute}")
    color, dash, symbol = ((BLUE, "solid", "circle"), (ORANGE, "dash", "square"))[i]
    usable = np.isfinite(values) & (values > 0)
    figure.add_trace(
        go.Scatter(
            x=np.where(usable, values, np.nan),
            y=names,
            mode="lines+markers" if len(names) <= 80 else "lines",
            name=one.title,
            legendgroup=one.title,
            showlegend=column == 1,
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7},
            hovertemplate="%{y}<br>%{x:.3g}<extra>%{fullData.name}</extra>",
        ),
        row=1,
        col=column,
    )
    for mask, symbol, tint, reason in (
        (bad, "x", RED, "NaN or infinite"),
        ((values == 0) & ~bad, "triangle-left", GREY, "exactly zero"),
    ):
        if mask.any():
            marks = go.Scatter(
                x=np.where(usable, values, edge)[mask],
                y=[n for n, hit in zip(names, mask, strict=True) if hit],
                mode="markers",
                name=f"{reason}, {one.title}",
                marker={"symbol": symbol, "size": 10, "color": tint},
                hovertemplate="%{y}<extra>%{fullData.name}</extra>",
                showlegend=column == 1 or not (one.bad_gradient.any()),
            )
            figure.add_trace(marks, row=1, col=column)


def _mark_origin(figure: go.Figure, data: RunData, keys: list[Key]) -> None:
    """A dotted line through both panels at the root finding's layer, with its number."""
    root = data.report.root
    row = row_of(data, root, [layer for layer, _ in keys]) if root else None
    if root is None or row is None:
        return
    figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=row, y1=row, line={"dash": "dot"})
    figure.add_annotation(
        text=f"{data.report.findings.index(root) + 1} origin",
        xref="paper",
        x=1,
        y=row,
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
    )
