"""What the entry tap costs a call of the model, of which most is torch's own handling of hooks.

    python benchmarks/replay_capture.py [--rounds 400] [--markdown]

Three copies of a module that does next to nothing run side by side, forward, backward and the end
of the step, in random order within each round, at one thread: bare, with hooks of the same kinds
that do nothing, and with the tap. Printed are medians over the rounds: microseconds of the bare
call, and what the hooks alone and the tap take on top of it in the same round. `own` is the
difference of these two, which is what surefoot answers for. A last column has the ratio of the
tapped call to the bare one. Nothing is written.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from surefoot.benchmark.table import markdown_table
from surefoot.probes.tap import MOST, EntryTap

Step = Callable[[], None]
_CALLS = 40  # of each copy in one round


class Product(nn.Module):
    """x * w, after drawing a number or not."""

    def __init__(self, draws: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.draws = draws

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        if self.draws:
            torch.rand(())
        product = x * self.weight
        return product if y is None else {"product": product, "other": y}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to call a model. context: of its forward; kept: whether the tap keeps the call."""

    label: str
    draws: bool = False
    keywords: bool = False
    marking: bool = True
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    backward: bool = True
    full: bool = False


def autocast() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


CASES = (
    Case("one tensor in, one out"),
    Case("the same, the loss not read", marking=False),
    Case("the model draws random numbers", draws=True),
    Case("keywords in, a dictionary out", keywords=True),
    Case("under autocast", context=autocast),
    Case("more calls than are kept", full=True),
    Case("without gradient", context=torch.no_grad, backward=False),
)


class Empty:
    """Hooks as the tap has them, which do nothing."""

    def __init__(self, module: nn.Module, following: bool) -> None:
        module.register_forward_pre_hook(self, with_kwargs=True)
        module.register_forward_hook(self.follow if following else self, always_call=True)

    def __call__(self, *args: Any) -> None:
        pass

    def follow(self, module: nn.Module, args: Any, output: Any) -> None:
        tensor = output if isinstance(output, torch.Tensor) else output["product"]
        tensor._backward_hooks = OrderedDict([(0, self)])
        tensor.grad_fn._register_hook_dict(tensor)


def steps(case: Case) -> dict[str, Step]:
    """A step of each copy, by name."""
    made: dict[str, Step] = {}
    for name in ("bare", "hooks", "tap"):
        module = Product(case.draws)
        tap: EntryTap | None = None
        if name == "hooks":
            Empty(module, case.backward and not case.full)
        elif name == "tap":
            tap = EntryTap([module])
            tap.marking = case.marking
        made[name] = step(case, module, tap)
    return made


def step(case: Case, module: Product, tap: EntryTap | None) -> Step:
    x, given = torch.ones(4), torch.ones(4)
    waiting: list[Any] = []
    if case.full and tap is not None:
        waiting += [module(x) for _ in range(MOST)]

    def run() -> None:
        with case.context():
            made = module(x=x, y=x) if case.keywords else module(x)
        if case.backward:
            end = made["product"] if case.keywords else made
            torch.autograd.grad(end, module.weight, given)
        if tap is not None and not case.full:
            tap.clear()

    for _ in range(5):  # the tap looks at the first calls of a module
        run()
    run.waiting = waiting  # type: ignore[attr-defined]
    return run


def measure(made: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Microseconds of CPU time of a step of each copy, in every round."""
    spent: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name in random.sample(list(made), len(made)):
            run = made[name]
            begin = time.process_time_ns()
            for _ in range(_CALLS):
                run()
            spent[name].append((time.process_time_ns() - begin) / _CALLS / 1e3)
    return spent


def over(spent: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a - b for a, b in zip(spent[name], spent[base], strict=True))


COLUMNS = ("a call of the model", "bare µs", "+ hooks", "+ tap", "own", "tap / bare")


def row(case: Case, rounds: int) -> tuple[str, ...]:
    """Measure one case; as COLUMNS."""
    spent = measure(steps(case), rounds)
    pairs = zip(spent["tap"], spent["bare"], strict=True)
    figures = (
        statistics.median(spent["bare"]),
        over(spent, "hooks", "bare"),
        over(spent, "tap", "bare"),
        over(spent, "tap", "hooks"),
        statistics.median(a / b for a, b in pairs),
    )
    return case.label, *(f"{figure:.2f}" for figure in figures)


@click.command()
@click.option("--rounds", default=400, show_default=True, help="Of each way to call a model.")
@click.option("--markdown", "for_page", is_flag=True, help="Print the table for a page.")
def main(rounds: int, for_page: bool) -> None:
    """Print what the entry tap costs a call, in microseconds."""
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        print(f"measuring: {case.label}", file=sys.stderr)
        rows.append(row(case, rounds))
    if for_page:
        print(markdown_table(COLUMNS, rows))
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(COLUMNS[0], no_wrap=True)
    for heading in COLUMNS[1:]:
        table.add_column(heading, justify="right")
    for one in rows:
        table.add_row(*one)
    Console().print(table)


if __name__ == "__main__":
    main()
