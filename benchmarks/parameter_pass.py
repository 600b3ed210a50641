"""What the five statistics of every gradient cost a step, on one thread.

    python benchmarks/parameter_pass.py [--quick] [--markdown]

Contenders run in random order within each round, in one process, and are timed by its CPU time;
what is printed is the median over rounds of the ratio to the same round's read floor (a loop of
the native library that only reads the same memory), so other load on the machine cancels as far
as it can. Absolute times from a shared machine mean little. Nothing is written.
"""

from __future__ import annotations

import ctypes
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import numpy as np
import torch
from parts.sizes import gpt2_sizes, resnet50_sizes, tiny_sizes
from rich import box
from rich.console import Console
from rich.table import Table

from surefoot.benchmark.table import count, markdown_table
from surefoot.kernels import kernel_name, kernel_reason, make_pass
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.native import Library, load


@dataclass(frozen=True, slots=True)
class Case:
    """One model's gradients: how many elements each, of which dtype, around which magnitude."""

    model: str
    sizes: tuple[int, ...]
    dtype: torch.dtype
    scale: float
    rounds: int

    @property
    def label(self) -> str:
        values = "subnormal" if self.scale < 1e-38 else "with NaN" if np.isnan(self.scale) else ""
        return f"{self.model} {str(self.dtype).removeprefix('torch.')} {values}".strip()

    def parameters(self) -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        made = []
        for size in self.sizes:
            gradient = torch.randn(size, generator=generator)
            if np.isnan(self.scale):
                gradient[::1000] = torch.nan
            else:
                gradient *= self.scale
            parameter = torch.nn.Parameter(torch.empty(size, dtype=self.dtype))
            parameter.grad = gradient.to(self.dtype)
            made.append(parameter)
        return made


def cases(quick: bool) -> Iterator[Case]:
    """Yield models x dtypes x magnitudes; `quick` leaves the largest model out."""
    models = [("tiny", tiny_sizes(), 60), ("rn50", resnet50_sizes(), 25)]
    if not quick:
        models.append(("gpt2", gpt2_sizes(), 9))
    for name, sizes, rounds in models:
        yield Case(name, tuple(sizes), torch.float32, 1e-3, rounds)
        yield Case(name, tuple(sizes), torch.float32, 1e-41, rounds)
        yield Case(name, tuple(sizes), torch.float32, float("nan"), rounds)
        yield Case(name, tuple(sizes), torch.bfloat16, 1e-3, rounds)
        yield Case(name, tuple(sizes), torch.float16, 1e-3, rounds)


def contenders(case: Case, library: Library) -> dict[str, Callable[[], object]]:
    """Return what is compared, by name; all read the same gradients."""
    parameters = case.parameters()
    gradients = [p.grad for p in parameters if p.grad is not None]
    served, eager = make_pass(len(gradients)), EagerPass()
    out = np.empty((len(gradients), 5))
    return {
        "floor": reader(library, gradients),
        "native": lambda: served(gradients, out),
        "eager": lambda: eager(gradients, out),
        "norm": lambda: torch.stack(torch._foreach_norm(gradients)).tolist(),
        # a limit that is never reached; the gradients are multiplied by one all the same
        "clip": lambda: torch.nn.utils.clip_grad_norm_(parameters, float("inf")),
    }


def reader(library: Library, gradients: list[torch.Tensor]) -> Callable[[], object]:
    """A read of their memory and nothing else: where they lie is asked once and for all."""
    count = len(gradients)
    where = (ctypes.c_void_p * count)(*[gradient.data_ptr() for gradient in gradients])
    sizes = (ctypes.c_int64 * count)(*[gradient.nbytes for gradient in gradients])
    return lambda: library.handle.surefoot_read_floor(library.best, count, where, sizes)


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[int]]:
    """CPU nanoseconds of each contender in each round, after one round to warm up."""
    spent: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name in random.sample(list(runs), len(runs)):
            start = time.process_time_ns()
            runs[name]()
            spent[name].append(time.process_time_ns() - start)
    return {name: times[1:] for name, times in spent.items()}


def ratio(spent: dict[str, list[int]], name: str, base: str) -> float:
    """Median over rounds of one contender's time over another's."""
    pairs = zip(spent[name], spent[base], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Row:
    """One case. floor: nanoseconds of the read; speed: its GB/s; ratios: to it, as NAMES."""

    case: Case
    floor: float
    speed: float
    ratios: tuple[float, ...]
    of_clip: float


NAMES = ("native", "eager", "norm", "clip")
TITLES = {"tiny": "100 linear layers", "rn50": "ResNet-50", "gpt2": "GPT-2 small"}


def row(case: Case, library: Library) -> Row:
    """Measure one case."""
    spent = measure(contenders(case, library), case.rounds)
    floor = statistics.median(spent["floor"])
    speed = sum(case.sizes) * case.dtype.itemsize / floor
    ratios = tuple(ratio(spent, name, "floor") for name in NAMES)
    return Row(case, floor, speed, ratios, ratio(spent, "native", "clip"))


def shown(rows: list[Row]) -> Table:
    """All of it, for a terminal."""
    title = f"One pass over all gradients, 1 thread, kernel {kernel_name()}"
    caption = "multiples of the read floor, medians over rounds; of clip: native / clip"
    table = Table(title=title, caption=kernel_reason() or caption, box=box.SIMPLE_HEAD)
    table.add_column("gradients", no_wrap=True)
    for heading in ("floor ms", "GB/s", *NAMES, "of clip"):
        table.add_column(heading, justify="right")
    for one in rows:
        figures = [f"{value:.2f}" for value in (*one.ratios, one.of_clip)]
        table.add_row(one.case.label, f"{one.floor / 1e6:.2f}", f"{one.speed:.1f}", *figures)
    return table


def page(rows: list[Row]) -> str:
    """What a page shows: the pass over a plain read and over clipping."""
    columns = ("gradients", "tensors", "parameters", "over a plain read", "over `clip_grad_norm_`")
    cells = [
        (
            TITLES[one.case.model],
            str(len(one.case.sizes)),
            count(sum(one.case.sizes)),
            f"{one.ratios[0]:.2f}",
            f"{one.of_clip:.2f}",
        )
        for one in rows
    ]
    return markdown_table(columns, cells)


@click.command()
@click.option("--quick", is_flag=True, help="Leave out GPT-2, which takes a gigabyte.")
@click.option("--markdown", "for_page", is_flag=True, help="Print the table for a page: float32.")
def main(quick: bool, for_page: bool) -> None:
    """Print the cost of the statistics, as multiples of merely reading the gradients."""
    torch.set_num_threads(1)
    library = load()
    if isinstance(library, str):
        raise SystemExit(f"No native kernel to measure: {library}")
    rows = []
    for case in cases(quick):
        if not for_page or (case.dtype, case.scale) == (torch.float32, 1e-3):
            print(f"measuring {case.label}", file=sys.stderr)
            rows.append(row(case, library))
    if for_page:
        print(page(rows))
    else:
        Console().print(shown(rows))


if __name__ == "__main__":
    main()
