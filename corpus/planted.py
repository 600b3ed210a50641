"""Faults planted by rule into healthy rows: `python -m corpus.planted [--every N] [--fault NAME]`.

The corpus' own faults were thought up one by one, each for its row. Here every fault of a short
list is planted in whatever row of the part to tune on admits it, and counts where it hurts: what is
missed shows where the rules lean on the rows that they were made for.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from corpus import Entry, load, serious_root
from corpus.figures import share
from corpus.recipes import Surgery, adam, untouched
from corpus.run import hurts, watched
from corpus.trainings.fit import fit
from corpus.trainings.surgery import all_times, both

Base = Mapping[str, Any]
Plant = Callable[[Base, int], dict[str, Any]]  # arguments of a row, a number: what changes


class Unfit(Exception):
    """The fault has no place in this row."""


def rate(factor: float) -> Plant:
    """Another learning rate, whatever the optimizer."""

    def plant(base: Base, _: int) -> dict[str, Any]:
        healthy = base.get("optimizer", adam(3e-3))

        def optimizer(parameters: Any) -> torch.optim.Optimizer:
            made = healthy(parameters)
            for group in made.param_groups:
                group["lr"] *= factor
            return made

        return {"optimizer": optimizer}

    return plant


def operated(change: Callable[[int], Surgery]) -> Plant:
    """Something is done to the model after what the row itself does."""
    return lambda base, number: {"surgery": both(base.get("surgery", untouched), change(number))}


def lone(factor: float) -> Callable[[int], Surgery]:
    """One of the inner layers, times a factor."""

    def change(number: int) -> Surgery:
        def act(model: nn.Module) -> None:
            inner = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
            if len(inner) < 3:
                raise Unfit
            with torch.no_grad():
                inner[1 + number % (len(inner) - 2)].weight.mul_(factor)

        return act

    return change


def given(name: str, value: Any) -> Plant:
    """Another argument of the row, which must not have it."""

    def plant(base: Base, _: int) -> dict[str, Any]:
        if name in base:
            raise Unfit
        return {name: value}

    return plant


def large(x: torch.Tensor) -> torch.Tensor:
    """A thousand times the numbers; indices stay what they are, and the row is not hurt."""
    return 1000 * x if x.is_floating_point() else x


# fault: (how it is planted, the cause that is right)
FAULTS: dict[str, tuple[Plant, str]] = {
    "rate_x1000": (rate(1e3), "learning_rate_too_high"),
    "rate_x100": (rate(1e2), "learning_rate_too_high"),
    "rate_x1e-3": (rate(1e-3), "learning_rate_too_low"),
    "rate_x1e-5": (rate(1e-5), "learning_rate_too_low"),
    "lone_x100": (operated(lone(1e2)), "weights_too_large"),
    "lone_x1e-3": (operated(lone(1e-3)), "weights_too_small"),
    "all_x8": (operated(lambda _: all_times(8.0)), "weights_too_large"),
    "all_x0.05": (operated(lambda _: all_times(0.05)), "weights_too_small"),
    "input_x1000": (given("scale_input", large), "input_scale"),
    "not_zeroed": (given("zero", False), "gradients_not_zeroed"),
}


@dataclass(frozen=True, slots=True)
class Planting:
    """One row with one fault. loss, healthy: final losses with it and without; rule: the root's."""

    row: str
    fault: str
    loss: float | None
    healthy: float | None
    rule: str
    cause: str
    right: bool


def plantings(every: int, only: tuple[str, ...]) -> Iterator[Planting]:
    """Those that hurt, of one in `every` pairs of row and fault, drawn by their names."""
    rows = [
        e for e in load().values() if e.healthy and e.part == "tune" and e.run is fit and e.runs
    ]
    for entry in rows:
        healthy = None
        for fault, (plant, cause) in FAULTS.items():
            number = zlib.crc32(f"{entry.name}/{fault}".encode())
            if number % every or (only and fault not in only):
                continue
            try:
                change = plant(entry.base, number // every)
                ill = Entry(f"{entry.name}/{fault}", fit, base=entry.base, change=change)
                report, _, loss = watched(ill, 0)
            except Unfit:
                continue
            healthy = entry.train(0) if healthy is None else healthy
            if not hurts(loss, healthy):
                continue
            root = serious_root(report)
            found = str(root.cause) if root else ""
            rule = root.rule if root else ""
            yield Planting(entry.name, fault, loss, healthy, rule, found, found == cause)


@click.command()
@click.option("--every", default=10, show_default=True, help="Of so many plantings one is tried.")
@click.option("--fault", "only", multiple=True, type=click.Choice(list(FAULTS)))
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the plantings here.")
def main(every: int, only: tuple[str, ...], file: Path | None) -> None:
    """Plant faults, and print which of those that hurt were found and which were not."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=120)
    tried = []
    for one in plantings(every, only):
        tried.append(one)
        if not one.right:
            words = f"{one.rule} {one.cause}" if one.rule else "nothing found"
            console.print(f"{one.row} {one.fault}: {words} ({one.loss:.3g}, not {one.healthy:.3g})")
    table = Table("fault", "detected", "cause")
    for fault in FAULTS:
        of = [one for one in tried if one.fault == fault]
        detected, right = sum(bool(one.rule) for one in of), sum(one.right for one in of)
        table.add_row(fault, share(detected, len(of)), share(right, len(of)))
    console.print(table)
    if file is not None:
        file.write_text(json.dumps([asdict(one) for one in tried], indent=1))


if __name__ == "__main__":
    main()
