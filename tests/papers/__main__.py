"""Print the table of values, then what shattering and exploding cost each on its own.

Status 1 if a value is out of bounds. All of it takes about eight minutes, --quick half a one.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import click
import torch
from rich.console import Console
from rich.table import Table
from tests.papers import Row, cost, rows

COLUMNS = ("value", "source", "seen", "theory", "measured", "error", "tolerance", "why", "", "s")


@click.command(help=__doc__)
@click.option("--only", default="", help="Rows whose name or source holds this word.")
@click.option("--quick", is_flag=True, help="Only the rows that run in the tests.")
@click.option("--costs/--no-costs", default=True, help="Train the control networks as well.")
def main(only: str, quick: bool, costs: bool) -> None:
    """Measure every row and print it."""
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 220, markup=False)
    chosen = [
        row
        for row in rows()
        if only.lower() in f"{row.name} {row.source}".lower() and (row.quick or not quick)
    ]
    wrong = 0
    table = Table(*COLUMNS)
    for row in chosen:
        with console.status(row.name):
            cells, fine = judge(row)
        table.add_row(*cells)
        wrong += not fine
    console.print(table)
    grades = Counter(str(row.seen) for row in chosen)
    known = ", ".join(f"{count} {grade}" for grade, count in grades.most_common())
    console.print(f"{len(chosen)} values, {wrong} out of bounds. Citations: {known}.")
    if costs and not only and not quick:
        with console.status("training the control networks"):
            for shown in cost.tables():
                console.print(shown)
    sys.exit(1 if wrong else 0)


def judge(row: Row) -> tuple[list[str], bool]:
    """A row measured: its cells, and whether it holds."""
    begin = time.perf_counter()
    value = row.measure()
    fine = row.holds(value)
    side = "" if row.bound == "=" else f"{row.bound} "
    numbers = [f"{row.error(value):.2g}", f"{row.tolerance:.2g}" if not side else "none"]
    cells = [row.name, row.source, str(row.seen), f"{side}{row.theory:.5g}", f"{value:.5g}"]
    seconds = f"{time.perf_counter() - begin:.1f}"
    return [*cells, *numbers, row.why, "ok" if fine else "WRONG", seconds], fine


if __name__ == "__main__":
    main()
