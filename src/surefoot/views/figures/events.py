"""The strip under the timeline: what a guard did, and whatever else happened, each on a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from surefoot.record.data import Event, RunData
from surefoot.views.figures.rows import scalar
from surefoot.views.figures.style import BLUE, GREEN, ORANGE, PURPLE, RED, plain
from surefoot.views.words import number

EVENTS = 400  # drawn in all; of very many on a line, an even selection
KINDS = 6  # lines of events beside those of the guard
LINE = 0.22  # height of a line, in sizes of a panel
# Each rung of a guard has a colour, and a symbol for those who cannot tell the colours apart.
RUNGS = {
    "clip": ("triangle-down", BLUE, "clipped"),
    "skip": ("x", ORANGE, "held back"),
    "roll back": ("triangle-left", PURPLE, "rolled back"),
    "undo": ("triangle-right", GREEN, "undone"),
    "halt": ("square", RED, "halted"),
}
_OTHER = ("line-ns", PURPLE, "")


def lines(data: RunData) -> dict[str, list[Event]]:
    """The events of each line of the strip: a guard's rungs first, from the gentlest up."""
    acts: dict[str, list[Event]] = {}
    others: dict[str, list[Event]] = {}
    for event in data.events:
        rung = _rung(event)
        where = others if rung is None else acts
        where.setdefault(_title(event, rung), []).append(event)
    order = [f"{_would(dry)}{RUNGS[rung][2]}" for rung in RUNGS for dry in (False, True)]
    kept = list(others)[:KINDS]
    return {name: acts[name] for name in order if name in acts} | {k: others[k] for k in kept}


def size(strip: Mapping[str, list[Event]]) -> float:
    """The height of the strip, in sizes of a panel; 0 without any line."""
    return max(0.8, LINE * len(strip)) if strip else 0.0


def add_strip(figure: go.Figure, strip: Mapping[str, list[Event]], row: int) -> None:
    """Draw the lines into a row of the figure, the first one on top."""
    most = max(1, EVENTS // max(1, len(strip)))
    for title, events in reversed(list(strip.items())):
        chosen = events[:: -(-len(events) // most)]
        rung = _rung(chosen[0])
        symbol, color, _ = RUNGS[rung] if rung else _OTHER
        line = {"width": 2 if rung is None else 0, "color": color}
        marks = go.Scatter(
            x=[event.step for event in chosen],
            y=[title] * len(chosen),
            text=[_words(event) if rung else "" for event in chosen],
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 12 if rung is None else 10,
                "color": color,
                "line": line,
            },
            name=title,
            showlegend=False,
            hovertemplate="step %{x:,d}%{text}<extra>%{y}</extra>",
        )
        figure.add_trace(marks, row=row, col=1)
    order = list(strip)[::-1]
    figure.update_yaxes(type="category", categoryarray=order, title="events", row=row)
    figure.update_yaxes(showgrid=False, row=row)


def _rung(event: Event) -> str | None:
    rung = event.detail.get("rung") if event.kind == "guard" else None
    return rung if isinstance(rung, str) and rung in RUNGS else None


def _would(dry_run: bool) -> str:
    return "dry run: " if dry_run else ""


def _title(event: Event, rung: str | None) -> str:
    if rung is None:
        return plain(event.detail.get("kind", event.kind), 24)
    return f"{_would(event.detail.get('dry_run') is True)}{RUNGS[rung][2]}"


def _words(event: Event) -> str:
    """Why a guard acted, for the box beside the mark."""
    detail: Mapping[str, Any] = event.detail
    words = [plain(detail.get("reason") or "", 120)]
    factor = scalar(detail.get("factor"))
    if factor == factor:
        words.append(f"{number(factor)} times the usual size")
    if detail.get("parameter"):
        words.append(plain(detail["parameter"], 60))
    return "".join(f"<br>{line}" for line in words if line)
