"""How the cost of one pass over all gradients grows with tensors and with parameters.

    python benchmarks/scaling.py [--rounds 30] [--largest 8] [--markdown] [--picture FILE]

The pass gives five statistics of every gradient. It runs in random order with a plain read of the
same memory (the read floor) and with `clip_grad_norm_`, at one thread, by processor time; figures
are medians over rounds of ratios within a round. The largest case takes 400 MB. `--picture` draws
them, in Chromium: `./dev bench scaling --picture docs/images/scaling.svg` makes the README's.
"""

from __future__ import annotations

import base64
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import plotly.graph_objects as go
import plotly.io
import torch
from parameter_pass import Case, contenders, measure, ratio
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from surefoot.benchmark.table import count, markdown_table
from surefoot.kernels import kernel_name
from surefoot.kernels.native import load
from surefoot.views.figures.style import LIGHT, LINES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

TENSORS = (10, 100, 500, 2000)
DECADES = (4, 5, 6, 7, 8)  # of parameters
_WARM_BYTES = 1 << 27  # read by all rounds of a case together, at least


@dataclass(frozen=True, slots=True)
class Point:
    """One case. floor: seconds of the plain read; to_floor, to_clip: ratios to it and to clip."""

    tensors: int
    parameters: int
    floor: float
    to_floor: float
    to_clip: float

    @property
    def seconds(self) -> float:
        """Of one pass."""
        return self.floor * self.to_floor


def point(tensors: int, decade: int, rounds: int) -> Point:
    """Measure one case, of tensors of equal size; small ones take more rounds."""
    size = 10**decade // tensors
    rounds = max(rounds, min(20 * rounds, _WARM_BYTES // (4 * 10**decade)))
    case = Case("equal", (size,) * tensors, torch.float32, 1e-3, rounds)
    library = load()
    if isinstance(library, str):
        raise SystemExit(f"No native kernel to measure: {library}")
    runs = contenders(case, library)
    spent = measure({name: runs[name] for name in ("floor", "native", "clip")}, rounds)
    return Point(
        tensors,
        size * tensors,
        statistics.median(spent["floor"]) / 1e9,
        ratio(spent, "native", "floor"),
        ratio(spent, "native", "clip"),
    )


def draw(points: list[Point]) -> go.Figure:
    """The pass's time, and that over clipping's, against parameters; a line for each count."""
    titles = ("One pass, milliseconds", "Over clip_grad_norm_")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.11)
    counts = sorted({p.tensors for p in points})
    for color, tensors in zip(LINES, counts, strict=False):
        mine = [p for p in points if p.tensors == tensors]
        for column, values in (
            (1, [1e3 * p.seconds for p in mine]),
            (2, [p.to_clip for p in mine]),
        ):
            figure.add_scatter(
                x=[p.parameters for p in mine],
                y=values,
                name=f"{tensors:,} tensors",
                mode="lines+markers",
                line={"color": color},
                legendgroup=str(tensors),
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(type="log", dtick=1, exponentformat="power", title="parameters")
    figure.update_yaxes(type="log", dtick=1, exponentformat="none", row=1, col=1)
    figure.update_yaxes(range=[0, 1.1], row=1, col=2)
    figure.add_hline(1, line={"dash": "dot", "width": 1}, row=1, col=2)
    figure.update_annotations(borderwidth=0, font_size=14, yshift=6)
    figure.update_layout(
        template=LIGHT,
        width=900,
        height=380,
        margin={"l": 20, "r": 20, "t": 80, "b": 20},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 1.16, "yanchor": "bottom"},
    )
    return figure


def save(figure: go.Figure, picture: Path) -> None:
    """Draw the figure in Chromium and write it as SVG."""
    from playwright.sync_api import sync_playwright
    from shots import FLAGS, chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = browser.new_page()
        page.set_content(plotly.io.to_html(figure, include_plotlyjs=True))
        address = page.evaluate(
            "Plotly.toImage(document.querySelector('.plotly-graph-div'), "
            f"{{format: 'svg', width: {figure.layout.width}, height: {figure.layout.height}}})"
        )
        browser.close()
    _, _, data = address.partition(",")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(_decoded(address, data))


def _decoded(address: str, data: str) -> bytes:
    """What a data address holds."""
    if ";base64" in address[:40]:
        return base64.b64decode(data)
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(data)


@click.command(help=__doc__)
@click.option(
    "--rounds", default=30, show_default=True, help="Of a large case; more of small ones."
)
@click.option("--largest", default=DECADES[-1], show_default=True, help="Decade of parameters.")
@click.option("--markdown", "for_page", is_flag=True, help="Print the table for a page.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it, as SVG.")
def main(rounds: int, largest: int, for_page: bool, picture: Path | None) -> None:
    """Measure, print and draw."""
    torch.set_num_threads(1)
    points = [
        point(tensors, decade, rounds)
        for tensors in TENSORS
        for decade in DECADES
        if decade <= largest
    ]
    columns = ("tensors", "parameters", "us a tensor", "over a plain read", "over clip_grad_norm_")
    rows = [
        (
            f"{p.tensors:,}",
            count(p.parameters),
            f"{1e6 * p.seconds / p.tensors:.3g}",
            f"{p.to_floor:.2f}",
            f"{p.to_clip:.2f}",
        )
        for p in points
    ]
    if for_page:
        print(markdown_table(columns, rows))
    else:
        table = Table(*columns, title=f"One pass over all gradients, kernel {kernel_name()}")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    if picture is not None:
        save(draw(points), picture)
        print(picture)


if __name__ == "__main__":
    main()
