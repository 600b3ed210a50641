"""What watching and clipping cost against clipping alone, one thread.

    python benchmarks/clipping.py [--quick]

Copies of the same parameters take optimizer steps on the same gradients, in random order within
each round: `clip_grad_norm_` and a fused AdamW step (the usual loop, 1.00); that step alone; all
statistics and the guard, with a limit that is never reached and with one that always is. Only this
phase of a step is timed, as CPU time of the process. Nothing is written.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import click
import torch
from parameter_pass import gpt2_sizes, resnet50_sizes, tiny_sizes
from rich import box
from rich.console import Console
from rich.table import Table

import surefoot
from surefoot.kernels import kernel_name

# Limits as multiples of the gradients' norm. The step writes what it has clipped back, so that from
# the second round on the norm stands at the limit: it is divided by very little, but divided.
CONTENDERS = {
    "clip_grad_norm_ + step": None,
    "step alone": None,
    "statistics + step": 1e6,
    "statistics + clip + step": 0.5,
}


def optimizer(sizes: list[int]) -> torch.optim.Optimizer:
    """AdamW on random weights that have random gradients of norm 0.001 an element."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in sizes:
        weight = torch.nn.Parameter(torch.randn(size, generator=generator))
        weight.grad = 1e-3 * torch.randn(size, generator=generator)
        made.append(weight)
    return torch.optim.AdamW(made, lr=1e-9, fused=True)


def contenders(sizes: list[int]) -> dict[str, Callable[[], object]]:
    """What is compared, by name."""
    norm = 1e-3 * sum(sizes) ** 0.5
    plain = optimizer(sizes)
    weights = plain.param_groups[0]["params"]

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 0.5 * norm)
        plain.step()

    runs: dict[str, Callable[[], object]] = {}
    for name, limit in CONTENDERS.items():
        if limit is None:
            runs[name] = plain.step  # the same copy: nothing but the clipping differs
            continue
        guarded = optimizer(sizes)
        surefoot.guard(guarded, clip=limit * norm, skip=False)
        runs[name] = guarded.step
    return runs | {"clip_grad_norm_ + step": clip_and_step}


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[int]]:
    """CPU nanoseconds of each contender in each round, after two rounds to warm up."""
    spent: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name in random.sample(list(runs), len(runs)):
            start = time.process_time_ns()
            runs[name]()
            spent[name].append(time.process_time_ns() - start)
    return {name: times[2:] for name, times in spent.items()}


@click.command()
@click.option("--quick", is_flag=True, help="Leave out GPT-2, which takes six gigabytes.")
def main(quick: bool) -> None:
    """Print each contender's time as a multiple of clipping and stepping."""
    torch.set_num_threads(1)
    console = Console()
    table = Table(
        title=f"The optimizer's phase of a step, fused AdamW, 1 thread, kernel {kernel_name()}",
        caption="medians over rounds of the ratio to clip_grad_norm_ + step in the same round",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("gradients", no_wrap=True)
    table.add_column("ms", justify="right")
    for name in CONTENDERS:
        table.add_column(name, justify="right")
    cases = [("tiny", tiny_sizes(), 60), ("rn50", resnet50_sizes(), 25)]
    cases += [] if quick else [("gpt2", gpt2_sizes(), 9)]
    with console.status("measuring") as status:
        for name, sizes, rounds in cases:
            status.update(f"measuring {name}")
            spent = measure(contenders(sizes), rounds)
            base = spent["clip_grad_norm_ + step"]
            ratios = [
                f"{statistics.median(a / b for a, b in zip(spent[n], base, strict=True)):.2f}"
                for n in CONTENDERS
            ]
            table.add_row(name, f"{statistics.median(base) / 1e6:.1f}", *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
