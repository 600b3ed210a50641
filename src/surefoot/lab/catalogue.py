"""The list of all entries in the terminal, made without PyTorch."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from surefoot.lab.entries import ENTRIES, FAMILIES
from surefoot.views.terminal import shown


def print_entries(console: Console) -> None:
    """The list of all entries, by family."""
    for family, words in FAMILIES.items():
        console.print(shown(console, words, "bold"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for entry in ENTRIES.values():
            if entry.family == family:
                grid.add_row(shown(console, f"  {entry.name}", "cyan"), shown(console, entry.title))
        console.print(grid)
        console.print()
    console.print(shown(console, "surefoot lab NAME runs one, in two minutes at most."))
