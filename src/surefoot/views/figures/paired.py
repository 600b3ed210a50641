"""Paired trial: the losses of a training as it is, and with each remedy, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from surefoot.views.figures.style import GREEN, GREY, LIGHT, LINES, RED, log_axis, plain

Losses = tuple[Sequence[int], Sequence[float]]


def paired(before: Losses, after: Mapping[str, Losses], best: str | None = None) -> go.Figure:
    """The curves; `after` maps remedies to theirs, `best` is drawn on top.

    Where a loss is not finite the curve has a gap.

    >>> figure = paired(([0, 1], [2.0, 2.0]), {"clipping.norm": ([0, 1], [2.0, 1.0])})
    >>> [trace.name for trace in figure.data]
    ['as it is', 'clipping.norm']
    """
    figure = go.Figure()
    curves = {name: losses for name, losses in after.items() if losses[0]}
    _line(figure, "as it is", before, RED, 2.5)
    for k, (name, losses) in enumerate(sorted(curves.items(), key=lambda c: c[0] == best)):
        colour = GREEN if name == best else (GREY, *LINES)[k % 6]
        _line(figure, name, losses, colour, 2.5 if name == best else 1.2)
    finite = [x for _, ys in (before, *curves.values()) for x in ys if math.isfinite(x)]
    figure.update_layout(template=LIGHT, height=360, showlegend=True)
    figure.update_xaxes(title="step", tickformat=",d")
    if finite and min(finite) > 0:
        low, high = math.log10(min(finite)), math.log10(max(finite))
        room = 0.05 * (high - low) + 0.02
        figure.update_yaxes(**log_axis(low - room, high + room, most=5))
    figure.update_yaxes(title="loss")
    return figure


def _line(figure: go.Figure, name: str, losses: Losses, colour: str, width: float) -> None:
    y = [x if math.isfinite(x) else None for x in losses[1]]
    line = {"color": colour, "width": width}
    figure.add_scatter(x=list(losses[0]), y=y, name=plain(name), mode="lines", line=line)
