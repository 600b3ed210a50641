"""Shattering: do the gradients of neighbouring inputs agree, layer by layer along the depth?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from surefoot.record.data import Event, RunData
from surefoot.views.figures.rows import scalar
from surefoot.views.figures.style import BLUE, GREY, LIGHT, ORANGE, RED, unique

ROWS = 500  # drawn; the probe follows a few dozen blocks
_LOOKS = ((BLUE, "solid", "circle"), (ORANGE, "dash", "square"))
_ENDS = {"parameters": "all parameters", "input": "the input"}


@dataclass(frozen=True, slots=True)
class Look:
    """What the probe saw at one step: coherence by layer from the input on, `end` at the input
    itself (or of all parameters), and `limit`, below which it is that of white noise."""

    title: str
    curve: Mapping[str, float]
    end: float
    limit: float
    of: str


def draw(data: RunData) -> go.Figure | None:
    """The first and the last look of the run, None if there was none."""
    looks = read(data)
    if not looks:
        return None
    looks = [*looks[:1], *looks[1:][-1:]]
    layers = list(dict.fromkeys(name for look in looks for name in look.curve))[:ROWS]
    end = _ENDS.get(looks[-1].of, "the input")
    names = unique([end, *(name or data.layers.model for name in layers)])
    figure = go.Figure()
    figure.update_layout(template=LIGHT, height=int(np.clip(190 + 24 * len(names), 250, 760)))
    _band(figure, max(look.limit for look in looks), names)
    rows = [
        np.array([look.end, *(look.curve.get(n, np.nan) for n in layers)], np.float64)
        for look in looks
    ]
    least = min(float(np.nanmin(np.r_[row, 0.0], initial=0.0)) for row in rows)
    least = min(least, *(-look.limit for look in looks)) - 0.08
    for look, row, style in zip(looks, rows, _LOOKS, strict=False):
        _curve(figure, look, row, names, style, least)
    figure.update_xaxes(title="agreement of neighbouring gradients", range=[least - 0.04, 1.06])
    for x, words in ((0, "white noise"), (1, "smooth")):
        figure.add_vline(x=x, line={"dash": "dot"})
        anchor = "left" if x == 0 else "right"
        figure.add_annotation(
            text=words, x=x, y=0, yref="paper", xanchor=anchor, yanchor="bottom", showarrow=False
        )
    figure.update_yaxes(type="category", categoryarray=names, range=[-0.9, len(names) - 0.4])
    return figure


def read(data: RunData) -> list[Look]:
    """The looks of a run in their order; those that saw nothing are left out."""
    looks = [_look(event) for event in data.events if event.kind == "shattering"]
    return [look for look in looks if np.isfinite([look.end, *look.curve.values()]).any()]


def _look(event: Event) -> Look:
    detail: Mapping[str, Any] = event.detail
    limit, of = scalar(detail.get("white")), detail.get("of")
    curve: Any = detail.get("curve")
    pairs = [p for p in curve if isinstance(p, list | tuple)] if isinstance(curve, list) else []
    return Look(
        f"step {event.step:,}",
        {p[0]: _known(p[1]) for p in pairs if len(p) == 2 and isinstance(p[0], str)},
        _known(detail.get("coherence")),
        min(abs(limit), 1.0) if np.isfinite(limit) else 0.0,
        of if isinstance(of, str) else "",
    )


def _known(value: Any) -> float:
    """A coherence, which lies between -1 and 1 but for rounding."""
    number = scalar(value)
    return float(np.clip(number, -1, 1)) if np.isfinite(number) else np.nan


def _band(figure: go.Figure, limit: float, names: list[str]) -> None:
    if not limit:
        return
    figure.add_trace(
        go.Scatter(
            x=[-limit, -limit, limit, limit],
            y=[names[0], names[-1], names[-1], names[0]],
            fill="toself",
            mode="lines",
            line={"color": GREY, "width": 1, "dash": "dot"},
            opacity=0.35,
            name="cannot be told from white noise",
            hoverinfo="skip",
        )
    )


def _curve(
    figure: go.Figure,
    look: Look,
    values: np.ndarray,
    names: list[str],
    style: tuple[str, str, str],
    edge: float,
) -> None:
    """One look; on the left edge stands what had no gradient, or one that is not finite."""
    color, dash, symbol = style
    figure.add_trace(
        go.Scatter(
            x=values,
            y=names,
            mode="lines+markers" if len(names) <= 80 else "lines",
            name=look.title,
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7},
            hovertemplate="%{y}<br>%{x:.3f}<extra>%{fullData.name}</extra>",
        )
    )
    lost = [i for i, value in enumerate(values) if np.isnan(value)]
    if lost:
        figure.add_trace(
            go.Scatter(
                x=[edge] * len(lost),
                y=[names[i] for i in lost],
                mode="markers",
                name=f"no finite gradient, {look.title}",
                marker={"symbol": "x", "size": 9, "color": RED},
                hovertemplate="%{y}<extra>%{fullData.name}</extra>",
            )
        )
