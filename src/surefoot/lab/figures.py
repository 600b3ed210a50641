"""The one picture of an entry: lines over an axis, measured and expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from surefoot.views.figures.style import GREEN, LIGHT, LINES, RED, log_axis, plain

BAD, GOOD = RED, GREEN


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. colour: None for the next of the usual ones; expected: what theory says, drawn
    dotted and without marks, in the colour of the line before it; marks: points instead of a line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str | None = None
    expected: bool = False
    marks: bool = False


def drawn(
    lines: Sequence[Line],
    x: str,
    y: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    reference: float | None = None,
) -> go.Figure:
    """The lines with the titles of their axes. reference: a level to compare them with.

    A value that is not finite, or that a logarithmic axis does not have, is a gap.

    >>> figure = drawn([Line("measured", [1, 2], [1.0, 0.5])], "layers", "gradient", log_y=True)
    >>> figure.data[0].name, figure.layout.yaxis.type
    ('measured', 'log')
    """
    figure = go.Figure()
    colours = iter(LINES * (len(lines) // len(LINES) + 1))
    colour = LINES[0]
    for line in lines:
        if not line.expected:
            colour = line.colour or next(colours)
        _add(figure, line, line.colour or colour, log_y)
    figure.update_layout(template=LIGHT, height=400, showlegend=True)
    figure.update_xaxes(title=x)
    if log_x:
        figure.update_xaxes(**_powers([v for one in lines for v in one.x]))
    if log_y:
        figure.update_yaxes(**_powers([v for one in lines for v in one.y]))
    figure.update_yaxes(title=y)
    if reference is not None:
        figure.add_hline(y=reference, line={"dash": "dot", "width": 1, "color": LINES[-1]})
    return figure


def _add(figure: go.Figure, line: Line, colour: str, log: bool) -> None:
    y = [v if math.isfinite(v) and (v > 0 or not log) else None for v in line.y]
    figure.add_scatter(
        x=list(line.x),
        y=y,
        name=plain(line.name, 60),
        mode="markers" if line.marks else "lines" if line.expected else "lines+markers",
        line={"color": colour, "width": 1.2 if line.expected else 2,
              "dash": "dot" if line.expected else "solid"},
        marker={"size": 5, "color": colour},
    )  # fmt: skip


def _powers(values: Sequence[float]) -> dict[str, object]:
    """A logarithmic axis around the positive ones of these values."""
    logs = [math.log10(v) for v in values if 0 < v < math.inf]
    low, high = (min(logs), max(logs)) if logs else (0.0, 1.0)
    room = 0.05 * (high - low) + 0.02
    return log_axis(low - room, high + room, most=6)
