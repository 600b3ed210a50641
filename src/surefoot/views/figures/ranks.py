"""Ranks: what each process of a distributed training saw of the steps that went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from surefoot.record.data import Event, RunData
from surefoot.views.figures.rows import scalar
from surefoot.views.figures.style import BLUE, GREY, LIGHT, ORANGE, RED, log_axis, plain

STEPS = 4  # panels; later alarms mostly repeat the first ones
RANKS = 256  # drawn in one
MIN_DECADES = 2.0  # of the axis: ranks that agree look so
MISSING = 6  # of which the number is named


@dataclass(frozen=True, slots=True)
class Alarm:
    """One step: rank, scale and loss, as multiples of the usual, and whether all was finite [R]."""

    step: int
    kind: str
    world: int
    rank: np.ndarray
    scale: np.ndarray
    loss: np.ndarray
    bad: np.ndarray


def draw(data: RunData) -> go.Figure | None:
    """A panel for each of the first alarmed steps, None if the ranks told nothing of any."""
    alarms = read(data)[:STEPS]
    if not alarms:
        return None
    figure = make_subplots(len(alarms), 1, vertical_spacing=0.34 / len(alarms))
    figure.update_layout(template=LIGHT, height=126 + 190 * len(alarms), margin_t=76)
    figure.update_layout(legend={"yref": "container", "y": 0.995, "yanchor": "top"})
    first_bad = next((row for row, alarm in enumerate(alarms, 1) if alarm.bad.any()), 0)
    for row, alarm in enumerate(alarms, 1):
        low, high = _limits(alarm)
        for attribute, symbol, color in (("scale", "circle", BLUE), ("loss", "square", ORANGE)):
            _dots(figure, alarm, attribute, (symbol, color), row)
        _crosses(figure, alarm, 10 ** (high - 0.12), row, row == first_bad)
        figure.add_annotation(
            text=_title(alarm),
            x=0,
            xref="x domain",
            xanchor="left",
            y=1.02,
            yref="y domain",
            yanchor="bottom",
            showarrow=False,
            borderpad=0,
            bordercolor="rgba(0,0,0,0)",
            row=row,
            col=1,
        )
        figure.add_hline(y=1, line={"dash": "dot", "color": GREY}, row=row, col=1)
        figure.update_yaxes(**log_axis(low, high, most=4), title="times the usual", row=row)
        figure.update_xaxes(tickformat="d", row=row)
        if len(alarm.rank) <= 16:
            figure.update_xaxes(tickvals=alarm.rank, row=row)
    figure.update_xaxes(title="rank", row=len(alarms))
    return figure


def read(data: RunData) -> list[Alarm]:
    """What the ranks told, once for each alarm; live it is part of the alarm itself."""
    alarms: dict[tuple[int, str], Alarm] = {}
    for event in data.events:
        told = event.detail.get("ranks")
        rows = [r for r in told if isinstance(r, Mapping)] if isinstance(told, list) else []
        rows = [r for r in rows if np.isfinite(scalar(r.get("rank")))][:RANKS]
        if rows:
            alarm = _alarm(event, rows)
            alarms.setdefault((alarm.step, alarm.kind), alarm)
    return list(alarms.values())


def _alarm(event: Event, rows: list[Mapping[str, Any]]) -> Alarm:
    rows = sorted(rows, key=lambda row: scalar(row.get("rank")))
    numbers = [[scalar(r.get(name)) for r in rows] for name in ("rank", "scale", "loss")]
    rank, scale, loss = np.array(numbers, np.float64)
    bad = [bool(r.get("lost")) or scalar(r.get("bad")) > 0 for r in rows]
    world = scalar(event.detail.get("world"))
    size = int(world) if 0 < world < 1e9 else len(rows)
    kind = plain(event.detail.get("kind", event.kind), 24)
    broken = np.array(bad) | np.isinf(scale) | np.isinf(loss)
    return Alarm(event.step, kind, size, rank, scale, loss, broken)


def _title(alarm: Alarm) -> str:
    missing = sorted(set(range(min(alarm.world, 10_000))) - {int(r) for r in alarm.rank})
    words = f"step {alarm.step:,}: {alarm.kind}"
    if not missing:
        return words
    if len(missing) <= MISSING:
        named = ", ".join(str(rank) for rank in missing)
        return f"{words}; no word from rank{'s' if len(missing) > 1 else ''} {named}"
    return f"{words}; {len(alarm.rank):,} of {alarm.world:,} ranks shown"


def _usable(alarm: Alarm) -> np.ndarray:
    values = np.r_[alarm.scale, alarm.loss]
    return values[np.isfinite(values) & (values > 0)]


def _limits(alarm: Alarm) -> tuple[float, float]:
    """log10 limits of the axis: all values and 1, and room for the crosses on top."""
    logs = np.log10(np.r_[_usable(alarm), 1.0])
    low, high = float(logs.min()), float(logs.max())
    spare = max(0.0, MIN_DECADES - (high - low)) / 2
    return low - spare - 0.1, high + spare + 0.1 + 0.12 * (high - low + 2 * spare)


def _dots(figure: go.Figure, alarm: Alarm, attribute: str, look: tuple[str, str], row: int) -> None:
    values = getattr(alarm, attribute)
    usable = np.isfinite(values) & (values > 0)
    symbol, color = look
    name, aside = ("input", -0.07) if attribute == "scale" else ("loss", 0.07)
    dots = go.Scatter(
        x=alarm.rank[usable] + aside,  # or the one would hide the other
        customdata=alarm.rank[usable],
        y=values[usable],
        mode="markers",
        marker={"symbol": symbol, "size": 10, "color": color},
        name=name,
        legendgroup=name,
        showlegend=row == 1,
        hovertemplate="rank %{customdata}<br>%{y:.3g} x usual<extra>%{fullData.name}</extra>",
    )
    figure.add_trace(dots, row=row, col=1)


def _crosses(figure: go.Figure, alarm: Alarm, top: float, row: int, key: bool) -> None:
    """A cross on top of the panel for each rank whose own part of the step was not finite."""
    if not alarm.bad.any():
        return
    crosses = go.Scatter(
        x=alarm.rank[alarm.bad],
        y=np.full(int(alarm.bad.sum()), top),
        mode="markers",
        marker={"symbol": "x", "size": 10, "color": RED},
        name="not finite",
        legendgroup="bad",
        showlegend=key,
        hovertemplate="rank %{x:d}<extra>%{fullData.name}</extra>",
    )
    figure.add_trace(crosses, row=row, col=1)
