"""What a guard costs, with the watch that it needs: against `clip_grad_norm_` in the same loop.

    python benchmarks/guard.py [--rounds 400] [--turns 2] [--only mlp] [--markdown]

As benchmarks/compare.py: a step of each copy in every round, in random order, one thread, processor
time, ratios within the round. The guard is the default one; its states to roll back to are kept in
the loop, and the share of the time that they take is printed beside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import click
import torch
from parts.peers import clipping
from parts.trainings import TRAININGS
from rich.console import Console
from rich.table import Table

import surefoot
from surefoot.benchmark import PROCESSOR, Contender, Extent, Ratio, plain, ratio, take_turns
from surefoot.benchmark.copies import Copy, make_copies
from surefoot.benchmark.table import markdown_table
from surefoot.guarding.snapshot import Snapshot

COLUMNS = ["training", "guard over clipping", "all in all", "guard over bare", "states kept"]


class Kept:
    """Seconds that states took, and guarded steps."""

    seconds, steps = 0.0, 0


@contextmanager
def guarded(copy: Copy) -> Iterator[Contender]:
    """The default guard, which watches by itself."""
    with surefoot.guard(copy.optimizer, copy.model) as guard:
        yield Contender(copy)
        Kept.steps += guard.steps


@contextmanager
def timed() -> Iterator[None]:
    """Time what keeping a state takes."""
    take = Snapshot.take

    def clocked(*args: Any) -> None:
        begin = time.perf_counter()
        take(*args)
        Kept.seconds += time.perf_counter() - begin

    with patch.object(Snapshot, "take", clocked):
        yield


def row(name: str, rounds: int, turns: int) -> list[str]:
    """The figures of one training."""
    title, make = TRAININGS[name]
    regimes = {"bare": plain, "clip": clipping, "guard": guarded}
    extent = Extent(rounds=rounds if name == "mlp" else rounds // 8, warm=64)
    Kept.seconds, Kept.steps = 0.0, 0
    copies = make_copies(make, title, len(regimes))
    begin = time.perf_counter()
    copies[0].step()
    step = time.perf_counter() - begin
    with timed():
        taken = take_turns(regimes, copies, extent, PROCESSOR, turns)
    own, bare = ratio(taken, "guard", "clip"), ratio(taken, "guard", "bare")
    share = Kept.seconds / max(Kept.steps * step, 1e-9)
    return [title, words(own), f"{own.total:.2f}", words(bare), f"{share:.2%}"]


def words(cost: Ratio) -> str:
    """The median and the quartiles."""
    return f"{cost.typical:.3f} ({cost.low:.2f} to {cost.high:.2f})"


@click.command(help=__doc__)
@click.option("--rounds", default=400, show_default=True, help="A turn, MLP; of others an eighth.")
@click.option("--turns", default=2, show_default=True, help="How often copies change places.")
@click.option("--only", type=click.Choice(list(TRAININGS)), help="One training.")
@click.option("--markdown", "for_page", is_flag=True, help="Print the table for a page.")
def main(rounds: int, turns: int, only: str | None, for_page: bool) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rows = [row(name, rounds, turns) for name in TRAININGS if only in (None, name)]
    if for_page:
        print(markdown_table(COLUMNS, rows))
        return
    table = Table(*COLUMNS, caption="median of ratios within a round (quartiles); ratio of sums")
    for cells in rows:
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
