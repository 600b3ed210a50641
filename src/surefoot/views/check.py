"""A check in the terminal: the verdict, then what was measured for it and along the depth."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table

from surefoot.findings import Check, Evidence, LayerScale
from surefoot.views.terminal import print_verdict, shown
from surefoot.views.words import clean, number, shorten

_ROWS = 16  # layers shown; of more, the first and the last ones
_NAME = 28


def print_check(check: Check, *, console: Console, report_path: str | None = None) -> None:
    """Print a check. Never raises for what it contains, as `print_verdict`."""
    print_verdict(check, console=console, report_path=report_path)
    if check.gauges:
        console.print()
        console.print(_gauges(check.gauges, console))
    if len(check.layers) > 1:
        console.print()
        console.print(_layers(check.layers, console))
    spent = f"{check.passes:.1f} forward-backward equivalents"
    console.print()
    console.print(shown(console, f"It took {spent}. Nothing of the model was changed.", "dim"))


def _table(console: Console, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for k, words in enumerate(columns):
        table.add_column(shown(console, words), justify="right" if k else "left", overflow="fold")
    return table


def _gauges(gauges: tuple[Evidence, ...], console: Console) -> Table:
    table = _table(console, "Measured before training", "", "Sound networks")
    table.columns[2].justify = "left"
    for e in gauges:
        words = clean(e.quantity), number(e.value), clean(e.expected)
        table.add_row(*(shown(console, w) for w in words))
    return table


def _layers(layers: tuple[LayerScale, ...], console: Console) -> Table:
    followed = any(row.coherence is not None for row in layers)
    columns = ["Signal", "growth (theory)", "Gradient", "growth (theory)", "weights/slope"]
    table = _table(console, "Layer", *columns, *(["coherence"] if followed else []))
    half = _ROWS // 2
    for k, row in enumerate(layers):
        if len(layers) > _ROWS and half <= k < len(layers) - half:
            if k == half:
                table.add_row(shown(console, f"… {len(layers) - 2 * half} more"))
            continue
        cells = (
            shorten(clean(row.layer), _NAME),
            number(row.signal),
            _growth(row.signal_growth, row.signal_expected),
            _factor(row.gradient),
            _growth(row.gradient_growth, row.gradient_expected),
            _parts(row),
            "" if row.coherence is None else f"{row.coherence:.2f}",
        )[: len(table.columns)]
        table.add_row(*(shown(console, w) for w in cells))
    return table


def _growth(measured: float | None, expected: float | None) -> str:
    if measured is None:
        return ""
    theory = "-" if expected is None else _factor(expected)
    return f"{_factor(measured)} ({theory})"


def _parts(row: LayerScale) -> str:
    if row.weights is None or row.activation is None:
        return ""
    return f"{_factor(row.weights)} / {_factor(row.activation)}"


def _factor(decades: float) -> str:
    """A growth in decades as the factor that it is."""
    return (
        "x" + number(float(f"{10 ** min(max(decades, -300), 300):.3g}")) if _known(decades) else "?"
    )


def _known(decades: float) -> bool:
    return math.isfinite(decades)
