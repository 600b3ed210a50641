"""What watching costs: the same training with and without surefoot, interleaved in one process.

    python benchmarks/watch_overhead.py [--pairs 1600] [--only mlp] [--markdown]

It is `surefoot benchmark` on larger trainings and for longer: at one thread, by that thread's
processor time, a step of each copy in random order, copies that change places half-way. The first
64 pairs of each half are not kept.
"""

from __future__ import annotations

import click
import torch
from parts.trainings import TRAININGS
from rich.console import Console

from surefoot.benchmark import PROCESSOR, Extent, markdown, measure, print_costs


@click.command(help=__doc__)
@click.option("--pairs", default=400, show_default=True, help="Of the MLP; of others a tenth.")
@click.option("--only", type=click.Choice(list(TRAININGS)), help="One training.")
@click.option("--warm", default=64, show_default=True, help="Pairs before those, in each half.")
@click.option("--markdown", "for_page", is_flag=True, help="Print the table for a page.")
def main(pairs: int, only: str | None, warm: int, for_page: bool) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    costs = []
    for name, (title, make) in TRAININGS.items():
        if only in (None, name):
            rounds = (pairs if name == "mlp" else pairs // 10) // 2
            extent = Extent(rounds=rounds, warm=warm)
            costs.append(measure(make, title, extent, PROCESSOR))
    if for_page:
        print(markdown(costs))
    else:
        print_costs(costs, console=Console())


if __name__ == "__main__":
    main()
