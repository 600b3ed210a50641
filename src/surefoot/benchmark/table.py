"""The costs of watching in the terminal, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from surefoot.benchmark.cost import Cost
from surefoot.views.terminal import shown
from surefoot.views.words import clean

_NOTE = (
    "Times with surefoot over times without it. A typical step is the median over pairs, with its "
    "standard error. All in all is the ratio of the sums, with what is sampled and recorded: the "
    "first steps hold most of it, so it falls as a run gets longer."
)


def print_costs(costs: Sequence[Cost], *, console: Console) -> None:
    """Print what watching costs, as ratios: a column for each training, as there are few."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    columns = ["Cost of watching", *(cost.training for cost in costs)]
    for words in columns:
        table.add_column(shown(console, clean(words)), overflow="fold")
    for row in zip(*(_rows(cost) for cost in costs), strict=True):
        cells = [row[0][0], *(value for _, value in row)]
        style = "bold" if row[0][0] == "a typical step" else ""
        table.add_row(*(shown(console, cell, style) for cell in cells))
    console.print(table)
    console.print()
    console.print(shown(console, _NOTE, "dim"))


def _rows(cost: Cost) -> list[tuple[str, str]]:
    kernel = f"{cost.kernel} ({cost.kernel_reason})" if cost.kernel_reason else cost.kernel
    return [
        ("a typical step", f"{cost.ratio.typical:.3f} +- {cost.ratio.error:.3f}"),
        ("all in all", f"{cost.ratio.total:.3f}"),
        ("aimed at", f"at most {cost.target:.2f}"),
        ("a step without it", duration(cost.step)),
        ("tensors", f"{cost.tensors:,}"),
        ("parameters", f"{cost.parameters:,}"),
        ("optimizer", cost.optimizer),
        ("pairs of steps", f"{cost.ratio.rounds:,}"),
        ("counted", f"{cost.clock} time"),
        ("device", f"{cost.device}, {cost.threads} thread{'s' * (cost.threads != 1)}"),
        ("kernel", kernel),
    ]


def markdown(costs: Sequence[Cost]) -> str:
    """A table for a page: a row for each training."""
    columns = ("training", "a step", "tensors", "parameters", "a typical step", "all in all")
    rows = [
        (
            cost.training.replace("|", "\\|"),
            duration(cost.step),
            f"{cost.tensors:,}",
            count(cost.parameters),
            f"{cost.ratio.typical:.3f} +- {cost.ratio.error:.3f}",
            f"{cost.ratio.total:.3f}",
        )
        for cost in costs
    ]
    return markdown_table(columns, rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as a Markdown table.

    >>> print(markdown_table(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(0.00724), duration(0.25), duration(12.345)
    ('7.24 ms', '250 ms', '12.3 s')
    """
    return f"{seconds:#.3g} s" if seconds >= 1 else f"{f'{1000 * seconds:#.3g}'.rstrip('.')} ms"


def count(number: int) -> str:
    """Three digits and a unit.

    >>> count(826634), count(10), count(25_557_032)
    ('827k', '10', '25.6M')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 1000)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
