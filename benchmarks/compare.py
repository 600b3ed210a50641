"""What surefoot and other ways to watch cost: the same training under each, in one process.

    PIP_CONSTRAINT=constraints.txt .venv/bin/pip install -r benchmarks/peers.txt
    python benchmarks/compare.py [--rounds 200] [--turns 2] [--only mlp] [--markdown]

Every round holds one step of the bare training and one under each contender, in random order, at
one thread, by that thread's processor time. Each has a copy of its own, another in each turn.
Printed is the median over rounds of a step's time over that of the bare step in the same round,
with its quartiles, and the ratio of the sums, in which rare work counts. What a tool does in other
threads and processes (wandb's sink, the writers of others and of surefoot) is not in it. One that
is not installed, or fails, is named with the reason.
"""

from __future__ import annotations

import warnings

import click
import torch
from parts.peers import PEERS, end_offline_run
from parts.trainings import TRAININGS
from rich.console import Console
from rich.table import Table

from surefoot.benchmark import PROCESSOR, Extent, Ratio, plain, ratio, take_turns
from surefoot.benchmark.copies import make_copies
from surefoot.benchmark.table import markdown_table

_BARE = "bare"


def compare(name: str, extent: Extent, turns: int) -> dict[str, Ratio | str]:
    """The cost of each peer on one training, by its title; words where it cannot be measured."""
    title, make = TRAININGS[name]
    obstacles = {p: p.obstacle(make_copies(make, title, 1)[0]) for p in PEERS}
    able = [p for p in PEERS if obstacles[p] is None]
    regimes = {_BARE: plain} | {p.title: p.regime for p in able}
    copies = make_copies(make, title, len(regimes))
    taken = take_turns(regimes, copies, extent, PROCESSOR, turns)
    return {p.title: obstacles[p] or ratio(taken, p.title, _BARE) for p in PEERS}


def cell(cost: Ratio | str) -> str:
    """A cost in figures, if there are any."""
    if isinstance(cost, str):
        return "no figure"
    return f"{cost.typical:.2f} ({cost.low:.2f} to {cost.high:.2f}), {cost.total:.2f}"


def reasons(costs: dict[str, dict[str, Ratio | str]]) -> list[str]:
    """A line for each peer and training without a figure."""
    return [
        f"{peer} on {TRAININGS[name][0]}: {cost}"
        for name, of in costs.items()
        for peer, cost in of.items()
        if isinstance(cost, str)
    ]


def extent(name: str, rounds: int) -> Extent:
    """How long a turn is. What surefoot does in the first steps only shows in short ones."""
    return Extent(rounds=rounds, warm=64) if name == "mlp" else Extent(rounds=rounds // 10, warm=20)


@click.command(help=__doc__)
@click.option("--rounds", default=200, show_default=True, help="A turn, MLP; of others a tenth.")
@click.option("--turns", default=2, show_default=True, help="How often copies change places.")
@click.option("--only", type=click.Choice(list(TRAININGS)), help="One training.")
@click.option("--markdown", "for_page", is_flag=True, help="Print the table for a page.")
def main(rounds: int, turns: int, only: str | None, for_page: bool) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of torch, on hooks that see no gradient of an input
    names = [name for name in TRAININGS if only in (None, name)]
    try:
        costs = {name: compare(name, extent(name, rounds), turns) for name in names}
    finally:
        end_offline_run()
    columns = ["watched by", *(TRAININGS[name][0] for name in names)]
    rows = [[p.title, *(cell(of[p.title]) for of in costs.values())] for p in PEERS]
    if for_page:
        print(markdown_table(columns, rows))
    else:
        table = Table(*columns, caption="median (quartiles), ratio of the sums; bare is 1")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    for line in reasons(costs):
        print(line)


if __name__ == "__main__":
    main()
