"""Colours and templates: one look for all figures, in light and in dark.

Figures take ink, grid and paper from the template only, so exchanging the template is all that a
dark page has to do. The colours of lines and marks reach a contrast of 3 on both papers.
"""

from __future__ import annotations

import html
import math
from typing import Any

import plotly.graph_objects as go

from surefoot.findings import Finding
from surefoot.views.words import PATHOLOGY, clean, shorten

BLUE = "#3b7ddd"
ORANGE = "#d1691f"
PURPLE = "#9268d6"
GREEN = "#2a8f68"
RED = "#dc3d4b"
GREY = "#7d8590"
LINES = (BLUE, ORANGE, PURPLE, GREEN, GREY)
HEAT = "Viridis"
MARKS = 8  # steps that a figure labels; the list of findings has them all
NAME = 30  # characters of a layer's name on an axis


def _template(ink: str, muted: str, grid: str, paper: str) -> go.layout.Template:
    axis = {
        "gridcolor": grid,
        "zeroline": False,
        "linecolor": muted,
        "tickcolor": muted,
        "tickfont": {"color": muted},
        "title": {"font": {"color": muted, "size": 12}, "standoff": 6},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 12},
            "font_color": ink,
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 10, "r": 10, "t": 30, "b": 10},
            "colorway": LINES,
            "hoverlabel": {"bgcolor": paper, "bordercolor": muted, "font": {"color": ink}},
            "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
            "annotationdefaults": {
                "font": {"color": ink, "size": 12},
                "bgcolor": paper,
                "bordercolor": muted,
                "borderpad": 3,
                "arrowcolor": ink,
                "arrowwidth": 1.5,
                "arrowhead": 2,
            },
            "shapedefaults": {"line": {"color": muted, "width": 1.2}},
        }
    )


LIGHT = _template("#1b1f24", "#59626d", "#e6e9ed", "#ffffff")
DARK = _template("#e8ebef", "#a3acb8", "#2c323a", "#191d23")


def log_axis(low: float, high: float, most: int = 8) -> dict[str, Any]:
    """A logarithmic axis from 10**low to 10**high with at most about `most` labels.

    Plotly's own labels change their size between powers and what lies between them; these do not.

    >>> log_axis(-1.2, 1.1)["ticktext"]
    ['0.1', '1', '10']
    """
    stride = max(1, round((high - low) / most))
    powers = [e for e in range(math.ceil(low), math.floor(high) + 1) if e % stride == 0]
    if high - low < 2:
        between = range(math.floor(low), math.ceil(high))
        values = [m * 10.0**e for e in between for m in (1, 2, 5)]
        values = [v for v in values if low <= math.log10(v) <= high]
        text = [f"{v:g}" for v in values]
    else:
        values = [10.0**e for e in powers]
        short = all(abs(e) <= 3 for e in powers)
        text = [f"{10.0**e:g}" if short else f"10<sup>{e}</sup>" for e in powers]
    return {"type": "log", "range": [low, high], "tickvals": values, "ticktext": text}


def label(finding: Finding) -> str:
    """What a finding is called beside its mark in a figure."""
    return PATHOLOGY[finding.pathology][0]


def joined(words: list[str]) -> str:
    """Names of numbered findings that share a mark: the first in full, of the others the number.

    >>> joined(["1 origin", "3 stalled training"])
    '1 origin, 3'
    """
    return ", ".join([words[0], *(w.split()[0] for w in words[1:])])


def flag_steps(figure: go.Figure, at: dict[float, list[str]], low: float, high: float) -> None:
    """Label steps above the panels, on as many lines as keep the labels apart.

    `at` maps a step to what began there; `low` and `high` are the ends of the axis. A label is
    taken to be half an axis long, which holds down to the width of a phone.
    """
    ends: list[list[tuple[float, float]]] = []
    for step, words in sorted(at.items())[:MARKS]:
        right = step < (low + high) / 2
        span = 0.5 * (high - low)
        place = (step, step + span) if right else (step - span, step)
        free = (i for i, e in enumerate(ends) if all(b < place[0] or place[1] < a for a, b in e))
        level = next(free, len(ends))
        if level == len(ends):
            ends.append([])
        ends[level].append(place)
        figure.add_annotation(
            text=joined(words),
            x=step,
            y=1,
            yref="paper",
            yshift=24 * level,
            xanchor="left" if right else "right",
            yanchor="bottom",
            showarrow=False,
        )
    extra = 24 * max(0, len(ends) - 1)
    figure.update_layout(height=figure.to_dict()["layout"]["height"] + extra, margin_t=30 + extra)


def plain(text: object, width: int = NAME) -> str:
    """Text from the run for a figure: short, and inert in Plotly's own small HTML.

    >>> plain("<b>fc</b>")
    '&lt;b&gt;fc&lt;/b&gt;'
    """
    return html.escape(shorten(clean(text), width), quote=False)


def unique(names: list[str], width: int = NAME) -> list[str]:
    """`plain` names for the rows of an axis; those that came out alike are numbered.

    >>> unique(["fc", "fc", "out"])
    ['fc', 'fc (2)', 'out']
    """
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        label = plain(name, width)
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels
