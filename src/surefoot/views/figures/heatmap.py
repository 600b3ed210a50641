"""Layer x step: where in the network, and when in the run, the gradient stands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from surefoot.record.data import RunData
from surefoot.views.figures.rows import (
    edges,
    layer_norms,
    layers_with,
    log10,
    nonfinite,
    row_of,
    statistic,
    thin,
)
from surefoot.views.figures.style import (
    GREY,
    HEAT,
    LIGHT,
    MARKS,
    RED,
    flag_steps,
    joined,
    label,
    unique,
)

CELLS = 60_000  # together about 0.3 MB in the report
COLUMNS = 240
MIN_DECADES = 3.0  # of the colour scale: a flat run looks flat


@dataclass(frozen=True, slots=True)
class Grid:
    """log10 of the gradient norm [L, T], NaN where it has no logarithm, with the reasons why."""

    rows: list[int]
    steps: np.ndarray
    value: np.ndarray
    zero: np.ndarray
    nonfinite: np.ndarray


def draw(data: RunData) -> go.Figure | None:
    """The heatmap, or None if no gradient norm was measured."""
    grid = read(data)
    if grid is None:
        return None
    names = unique([data.layers.title(row) for row in grid.rows])
    figure = go.Figure()
    figure.update_layout(template=LIGHT, height=int(np.clip(150 + 22 * len(names), 240, 640)))
    figure.add_trace(_heat(grid, names))
    for mask, color, reason in (
        (grid.zero, GREY, "exactly zero"),
        (grid.nonfinite, RED, "NaN or infinite"),
    ):
        if mask.any():
            figure.add_traces(_overlay(grid, names, mask, color, reason))
    _mark_findings(figure, data, grid, names)
    low, high = edges(grid.steps)[[0, -1]]
    figure.update_xaxes(title="step", range=[low, high], showgrid=False, tickformat=",d")
    if high - low <= 8:
        figure.update_xaxes(dtick=1)
    figure.update_yaxes(type="category", categoryarray=names, range=[-0.5, len(names) - 0.5])
    figure.update_yaxes(showgrid=False)
    return figure


def read(data: RunData) -> Grid | None:
    """The values that the heatmap shows; each cell is the highest norm among its steps.

    Zero and non-finite cells carry no number; `rows.nonfinite` says how the latter are known.
    """
    series = statistic(data, "norm")
    if series is None:
        return None
    rows = layers_with(data, series.high.shape[1])
    if not rows:
        return None
    series = thin(series, max(24, min(COLUMNS, CELLS // len(rows))))
    norms = layer_norms(data, series.high, rows).T
    bad = np.isinf(norms) | (nonfinite(data, rows, series.steps).T & ~np.isnan(norms))
    norms = np.where(bad, np.nan, norms)
    if not (bad.any() or np.isfinite(norms).any()):
        return None
    return Grid(rows, series.steps, log10(norms), norms == 0, bad)


def _heat(grid: Grid, names: list[str]) -> go.Heatmap:
    finite = grid.value[np.isfinite(grid.value)]
    low, high = (finite.min(), finite.max()) if finite.size else (-MIN_DECADES, 0.0)
    spare = max(0.0, MIN_DECADES - (high - low)) / 2
    return go.Heatmap(
        x=edges(grid.steps),
        y=names,
        z=grid.value.astype(np.float32),
        zmin=low - spare,
        zmax=high + spare,
        colorscale=HEAT,
        hoverongaps=False,
        hovertemplate="%{y}<br>step %{x:,d}<br>norm 10<sup>%{z:.2f}</sup><extra></extra>",
        colorbar={
            "title": {"text": "gradient norm", "side": "right"},
            "tickprefix": "10<sup>",
            "ticksuffix": "</sup>",
            "thickness": 12,
            "outlinewidth": 0,
            "tick0": 0,
            "dtick": max(1, round((high - low + 2 * spare) / 8)),
        },
    )


def _overlay(
    grid: Grid, names: list[str], mask: np.ndarray, color: str, reason: str
) -> list[go.Heatmap | go.Scatter]:
    """Cells of one plain colour, with an entry in the legend that says what they are."""
    cells = go.Heatmap(
        x=edges(grid.steps),
        y=names,
        z=np.where(mask, 1.0, np.nan).astype(np.float32),
        colorscale=[[0, color], [1, color]],
        showscale=False,
        hoverongaps=False,
        hovertemplate=f"%{{y}}<br>step %{{x:,d}}<br>{reason}<extra></extra>",
    )
    key = go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=reason,
        marker={"symbol": "square", "size": 11, "color": color},
        showlegend=True,
    )
    return [cells, key]


def _mark_findings(figure: go.Figure, data: RunData, grid: Grid, names: list[str]) -> None:
    """A numbered flag at each finding's layer and first step; a line for one without a layer."""
    low, high = edges(grid.steps)[[0, -1]]
    flags: dict[tuple[float, int], list[str]] = {}
    lines: dict[float, list[str]] = {}
    for i, finding in enumerate(data.report.findings, 1):
        step = float(np.clip(finding.first_step, low + 0.5, high - 0.5))
        row = row_of(data, finding, grid.rows)
        if row is None:
            lines.setdefault(step, []).append(f"{i} {label(finding)}")
        else:
            word = "origin" if finding.root else label(finding)
            flags.setdefault((step, row), []).append(f"{i} {word}")
    for step in sorted(lines)[:MARKS]:
        figure.add_vline(x=step, line={"dash": "dash"})
    flag_steps(figure, lines, low, high)
    for (step, row), words in list(flags.items())[:MARKS]:
        side = 24 if step < (low + high) / 2 else -24
        figure.add_trace(_flag(step, names[row], words))
        figure.add_annotation(
            text=joined(words),
            x=step,
            y=row,
            xanchor="left" if side > 0 else "right",
            ax=side,
            ay=0,
            arrowhead=0,
            standoff=7,
        )


def _flag(step: float, name: str, words: list[str]) -> go.Scatter:
    return go.Scatter(
        x=[step],
        y=[name],
        mode="markers",
        marker={
            "symbol": "diamond",
            "size": 12,
            "color": "#ffffff",
            "line": {"color": "#000000", "width": 2},
        },
        hovertemplate=f"finding {', '.join(words)}<br>%{{y}}<br>step %{{x:,d}}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
    )
