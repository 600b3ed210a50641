"""What the five statistics of GPT-2's 148 gradients cost on a CUDA device.

    python benchmarks/gpu_pass.py [--rounds N]

Contenders run in random order within each round, behind enough other work that all of a contender
is enqueued before the device begins it: its time there is the device's alone, by CUDA events, and
the time to enqueue it the host's alone. The share of the memory's bandwidth is what a contender
reads a second (each gradient once, whatever it really reads) over what a copy of a single buffer
reads and writes. Medians over rounds. Nothing is written.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import click
import torch
from parts.sizes import gpt2_sizes
from rich import box
from rich.console import Console
from rich.table import Table

from surefoot.kernels import kernel_name, kernel_reason, make_ring

AHEAD = 20_000_000  # clock cycles that the device is kept busy: some ten milliseconds


def parameters(dtype: torch.dtype, device: torch.device) -> list[torch.nn.Parameter]:
    """Parameters of GPT-2's sizes with random gradients of an everyday magnitude."""
    generator = torch.Generator(device).manual_seed(0)
    made = []
    for size in gpt2_sizes():
        values = torch.randn(size, generator=generator, device=device) * 1e-3
        parameter = torch.nn.Parameter(torch.empty(size, dtype=dtype, device=device))
        parameter.grad = values.to(dtype)
        made.append(parameter)
    return made


def contenders(
    made: list[torch.nn.Parameter], device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return what is compared, by name; all but the copy read the same gradients."""
    gradients = [parameter.grad for parameter in made if parameter.grad is not None]
    source = torch.empty(sum(gradient.nbytes for gradient in gradients) // 4, device=device)
    target = torch.empty_like(source)
    ring = make_ring(len(gradients), device)

    def launch() -> None:
        ring.launch(gradients)
        ring.poll()

    return {
        "copy": lambda: target.copy_(source),
        "surefoot": launch,
        "norm": lambda: torch.stack(torch._foreach_norm(gradients)),
        # a limit that is never reached; the gradients are multiplied by one all the same
        "clip": lambda: torch.nn.utils.clip_grad_norm_(made, float("inf")),
    }


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds on the device and on the host of each contender, after two rounds to warm up."""
    device: dict[str, list[float]] = {name: [] for name in runs}
    host: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name in random.sample(list(runs), len(runs)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(AHEAD)
            start.record()
            begun = time.perf_counter()
            runs[name]()
            host[name].append(time.perf_counter() - begun)
            end.record()
            end.synchronize()
            device[name].append(start.elapsed_time(end) / 1e3)
    return {
        name: (statistics.median(device[name][2:]), statistics.median(host[name][2:]))
        for name in runs
    }


@click.command()
@click.option("--rounds", default=30, show_default=True, help="How often each contender runs.")
def main(rounds: int) -> None:
    """Print what the statistics cost on this machine's first CUDA device."""
    if not torch.cuda.is_available():
        print("There is no CUDA device here: nothing to measure.")
        return
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    torch.cuda.init()
    title = f"GPT-2's gradients on {torch.cuda.get_device_name(device)}, kernel {kernel_name()}"
    table = Table(title=title, caption=kernel_reason(), box=box.SIMPLE_HEAD)
    table.add_column("gradients", no_wrap=True)
    for heading in ("contender", "device ms", "host ms", "GB/s", "of bandwidth"):
        table.add_column(heading, justify="right")
    for dtype in (torch.float32, torch.bfloat16):
        made = parameters(dtype, device)
        size = sum(parameter.nbytes for parameter in made)
        spent = measure(contenders(made, device), rounds)
        bandwidth = 2 * size / spent["copy"][0]
        for name, (there, here) in spent.items():
            speed = (2 if name == "copy" else 1) * size / there
            figures = (f"{there * 1e3:.3f}", f"{here * 1e3:.3f}", f"{speed / 1e9:.0f}")
            label = str(dtype).removeprefix("torch.")
            table.add_row(label, name, *figures, f"{speed / bandwidth:.2f}")
        del made
    Console().print(table)


if __name__ == "__main__":
    main()
