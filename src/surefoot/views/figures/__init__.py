"""Every picture of a run, drawn once for notebook, report and page.

A figure is one file with a `draw` function and one entry in `FIGURES`, in the order in which the
report shows them, or in `LAYER_FIGURES` if it is of one layer. `draw` returns None when the run
holds nothing of what the figure shows. `compared` draws two runs in one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.views.figures import (
    depth,
    heatmap,
    layer,
    ranks,
    saturation,
    shattering,
    timeline,
    updates,
)
from surefoot.views.figures.compared import COMPARED as COMPARED
from surefoot.views.figures.compared import compared as compared
from surefoot.views.figures.style import LIGHT, plain


@dataclass(frozen=True, slots=True)
class FigureSpec:
    """A figure's title, what to look for in it in a sentence or two, and its drawing.

    always: whether every run should hold what it shows, so that a missing one is worth a word.
    """

    title: str
    caption: str
    draw: Callable[[RunData], go.Figure | None]
    always: bool = True


@dataclass(frozen=True, slots=True)
class LayerFigureSpec:
    """The same for a figure of one layer, which is an index into the run's table."""

    title: str
    caption: str
    draw: Callable[[RunData, int], go.Figure | None]


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
        "plateau or a cross at the same step in several rows shows when something happened; below "
        "stands what a guard did about it.",
        timeline.draw,
    ),
    "updates": FigureSpec(
        "How far each step moves the weights",
        "The size of each step relative to the weights: most healthy runs lie in the band; far "
        "below it hardly anything is learned, far above it every step overwrites the last.",
        updates.draw,
    ),
    "saturation": FigureSpec(
        "Units that pass no gradient on",
        "The share of each layer's units that are so flat, or so firmly off, for every sample that "
        "no correction gets through them: far to the left is good; beyond the red tick most of a "
        "layer may be asleep, and what lies below it in the figure learns little.",
        saturation.draw,
        always=False,
    ),
    "shattering": FigureSpec(
        "Do two almost equal inputs ask for the same change?",
        "How well the gradient at an input agrees with that of an input right beside it. At 1 "
        "they agree, and steps add up; inside the band around 0 they are as unrelated as noise, "
        "and steps cancel each other.",
        shattering.draw,
        always=False,
    ),
    "ranks": FigureSpec(
        "The steps that went wrong, as each process saw them",
        "Each process of a distributed training has data of its own: one that stands far above the "
        "dotted line, or carries a cross, while the others do not, had the batch that did it.",
        ranks.draw,
        always=False,
    ),
}
LAYER_FIGURES: dict[str, LayerFigureSpec] = {
    "layer": LayerFigureSpec(
        "One layer over time",
        "The gradient that arrives should keep its size, the weights should change a little at "
        "each step (0.0001 to 0.01 of their size is common), and few elements should be exactly "
        "zero; a jump in several rows at one step shows when something happened to this layer.",
        layer.draw,
    ),
}


def figure(data: RunData, name: str) -> go.Figure:
    """The named figure with its title and caption; an empty one that says so if nothing is there.

    Raises ValueError, naming the known figures, for an unknown name.
    """
    if name not in FIGURES:
        raise ValueError(f"expected one of the figures {', '.join(FIGURES)}; got {name!r}")
    spec = FIGURES[name]
    return _titled(spec.draw(data), spec.title, spec.caption)


def layer_figure(data: RunData, index: int, name: str = "layer") -> go.Figure:
    """The named figure of a layer, as `figure`; raises ValueError for an unknown layer as well."""
    if name not in LAYER_FIGURES:
        raise ValueError(f"expected one of the figures {', '.join(LAYER_FIGURES)}; got {name!r}")
    spec = LAYER_FIGURES[name]
    drawn = spec.draw(data, index)
    return _titled(drawn, f"{spec.title}: {plain(data.layers.title(index), 60)}", spec.caption)


def _titled(drawn: go.Figure | None, title: str, caption: str) -> go.Figure:
    drawn = _empty() if drawn is None else drawn
    lines = textwrap.wrap(caption, 110)
    layout: dict[str, Any] = drawn.to_dict()["layout"]
    drawn.update_layout(
        title={
            "text": title,
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
