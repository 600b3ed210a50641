"""Two runs side by side: their curves over the steps, and their gradients along the depth."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.record.series import Series
from surefoot.views.figures import depth, timeline
from surefoot.views.figures.curves import Panel, spans_decades, stacked
from surefoot.views.figures.rows import Key
from surefoot.views.figures.style import LIGHT, log_axis, unique

# of each figure of two runs: its title, and what to look for
COMPARED = {
    "timeline": (
        "Both runs over time",
        "The two losses and gradient norms on one axis of steps: where the lines part is where one "
        "run began to do better; a healthy one falls, and its gradient keeps its size.",
    ),
    "depth": (
        "Both runs along the depth",
        "Read from the top (the loss) down to the bottom (the input) at the first step that was "
        "seen in full: the straighter line belongs to the network that passes gradients better.",
    ),
}


def compared(a: RunData, b: RunData) -> dict[str, go.Figure]:
    """The figures in which both runs appear: "timeline" and "depth", those that can be drawn."""
    drawn = {"timeline": over_time(a, b), "depth": along_depth(a, b)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def over_time(a: RunData, b: RunData) -> go.Figure | None:
    """Loss and gradient norm of both runs, None if neither was measured in any."""
    names = unique([a.name, b.name])
    panels = []
    for title, read in (("loss", timeline.loss), ("gradient norm", timeline.gradient_norm)):
        series = [read(run) for run in (a, b)]
        curves = [(n, _blank() if s is None else s) for n, s in zip(names, series, strict=True)]
        if any(len(s) for _, s in curves):
            log = title != "loss" or spans_decades(*(s for _, s in curves))
            panels.append(Panel(title, curves, log))
    return stacked(panels, legend=True)[0] if panels else None


def along_depth(a: RunData, b: RunData) -> go.Figure | None:
    """The gradient at the layers whose names both runs know, each at its first instrumented step.

    None where there is no such layer, or nothing was measured.
    """
    keys = _shared(a, b)
    if not keys:
        return None
    names = unique([a.name, b.name])
    profiles = [
        depth.profile(run, run.flows[0], [pair[i] for pair in keys], names[i])
        for i, run in enumerate((a, b))
    ]
    if not any(np.isfinite(one.gradient).any() or one.bad_gradient.any() for one in profiles):
        return None
    rows = unique([a.layers.title(key[0]) for key, _ in keys])
    figure = go.Figure().set_subplots(1, 1)
    figure.update_layout(template=LIGHT, height=int(np.clip(170 + 24 * len(rows), 260, 760)))
    left, right = depth.axis_range([one.gradient for one in profiles])
    for i, one in enumerate(profiles):
        depth.line(figure, one, "gradient", rows, i, 1, 10**left)
    figure.update_xaxes(**log_axis(left - 0.05 * (right - left), right))
    figure.update_xaxes(title="gradient arriving (norm)")
    figure.update_yaxes(type="category", categoryarray=rows, range=[-0.6, len(rows) - 0.4])
    return figure


def _shared(a: RunData, b: RunData) -> list[tuple[Key, Key]]:
    """The rows of the first run's profile of which the other has one by the same name."""
    others = {(b.layers.title(layer), nth): (layer, nth) for layer, nth in depth.order(b)}
    pairs = [(key, others.get((a.layers.title(key[0]), key[1]))) for key in depth.order(a)]
    return [(own, other) for own, other in pairs if other is not None]


def _blank() -> Series:
    return Series.empty(1)
