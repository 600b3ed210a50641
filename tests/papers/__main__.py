"""Print the table: `python -m tests.papers [--only WORD]`; status 1 if a value is out of bounds."""

from __future__ import annotations

import sys
import time

import click
import torch
from rich.console import Console
from rich.table import Table
from tests.papers import rows


@click.command(help=__doc__)
@click.option("--only", default="", help="Rows whose name or source holds this word.")
def main(only: str) -> None:
    """Measure every row and print it."""
    torch.set_num_threads(1)
    table = Table("value", "source", "theory", "measured", "error", "tolerance", "", "s")
    wrong = 0
    for row in rows():
        if only.lower() not in f"{row.name} {row.source}".lower():
            continue
        begin = time.perf_counter()
        value = row.measure()
        error = abs(value - row.theory)
        fine = error <= row.tolerance
        wrong += not fine
        table.add_row(
            row.name,
            row.source,
            f"{row.theory:.5g}",
            f"{value:.5g}",
            f"{error:.2g}",
            f"{row.tolerance:.2g}",
            "ok" if fine else "WRONG",
            f"{time.perf_counter() - begin:.1f}",
        )
    Console(width=160).print(table)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
