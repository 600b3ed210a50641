"""Every picture of a run, drawn once for notebook, report and page.

A figure is one file with a `draw` function and one line in `FIGURES`. `draw` returns None when
the run holds nothing of what the figure shows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.views.figures import depth, heatmap, timeline, updates
from surefoot.views.figures.style import LIGHT


@dataclass(frozen=True, slots=True)
class FigureSpec:
    """A figure's title, the one sentence that says what to look for, and its drawing."""

    title: str
    caption: str
    draw: Callable[[RunData], go.Figure | None]


FIGURES: dict[str, FigureSpec] = {
    "heatmap": FigureSpec(
        "Gradient of every layer at every step",
        "Each row is a layer, the input at the bottom, and each column a step: a healthy run has "
        "much the same colour from bottom to top; a row, a block or a column that stands out is "
        "where or when the gradient fades, grows or breaks.",
        heatmap.draw,
    ),
    "depth": FigureSpec(
        "Profile through the depth of the network",
        "Read from the top (the loss) down to the bottom (the input), the way the gradient "
        "travels: the line should stay inside the band; where it leaves it, gradients fade (to "
        "the left) or grow (to the right).",
        depth.draw,
    ),
    "timeline": FigureSpec(
        "The run over time",
        "The loss should fall and the gradient norm stay within its usual range; a jump, a "
        "plateau or a cross at the same step in several rows shows when something happened.",
        timeline.draw,
    ),
    "updates": FigureSpec(
        "How far each step moves the weights",
        "The size of each step relative to the weights: most healthy runs lie in the band; far "
        "below it hardly anything is learned, far above it every step overwrites the last.",
        updates.draw,
    ),
}


def figure(data: RunData, name: str) -> go.Figure:
    """The named figure with its title and caption; an empty one that says so if nothing is there.

    Raises ValueError, naming the known figures, for an unknown name.
    """
    if name not in FIGURES:
        raise ValueError(f"expected one of the figures {', '.join(FIGURES)}; got {name!r}")
    spec = FIGURES[name]
    drawn = spec.draw(data)
    drawn = _empty() if drawn is None else drawn
    lines = textwrap.wrap(spec.caption, 110)
    layout: dict[str, Any] = drawn.to_dict()["layout"]
    drawn.update_layout(
        title={
            "text": spec.title,
            "subtitle": {"text": "<br>".join(lines), "font": {"size": 12}},
            "x": 0.01,
            "yref": "container",
            "y": 0.98,
            "yanchor": "top",
        },
        height=(layout.get("height") or 300) + 50 + 16 * len(lines),
        margin={"t": (layout.get("margin", {}).get("t") or 30) + 50 + 16 * len(lines)},
    )
    return drawn


def _empty() -> go.Figure:
    drawn = go.Figure()
    drawn.update_layout(template=LIGHT, height=200)
    drawn.update_xaxes(visible=False).update_yaxes(visible=False)
    text = "Nothing to draw: this was not measured in this run."
    drawn.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return drawn
