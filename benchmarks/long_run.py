"""What a long run costs: memory, size of its folder, and the time to open and to draw it.

    python benchmarks/long_run.py [--steps 1000000] [--tensors 150] [--flat-out]
    python benchmarks/long_run.py --seconds 180

The recording path of a training (ledger, writer, compaction) is fed with made-up rows of every
quantity, without the model. It runs as fast as the writer's thread keeps up; with --flat-out it
does not wait for it, as no training could, so that steps melt. At a thousand random steps one
value is a spike of its own height: at the end every one of them must still be in the record.

With --seconds a perceptron of two layers is trained under `surefoot.watch` for that long instead.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import surefoot
from surefoot.diagnosis.case import Facts
from surefoot.diagnosis.diagnose import diagnose
from surefoot.layers import Kind, Layer, LayerTable, Parameter
from surefoot.probes.blocks import choose_blocks
from surefoot.record import Writer, new_folder, read_run
from surefoot.record.database import DATABASE
from surefoot.record.writer import LIMIT_BYTES
from surefoot.signals import QUANTITIES, Axis
from surefoot.signals.flow import Call, Flow, TensorStats
from surefoot.views.figures import FIGURES
from surefoot.views.report import render_report
from surefoot.watching.ledger import Ledger

_POOL = 61  # rows of each quantity, used in turn
_SPIKES = 1000
_SAMPLED = 8  # steps between two samples: the most that a training takes
_MIB = 1 << 20


def perceptron(tensors: int) -> LayerTable:
    """A layer table of `tensors` parameters: linear layers with a weight and a bias each."""
    layers = [Layer("", "Net", Kind.CONTAINER, None, False)]
    parameters = []
    for i in range(tensors // 2):
        name = f"blocks.{i}.linear"
        layers.append(Layer(name, "Linear", Kind.LINEAR, 0, True))
        for part, shape in (("weight", (64, 64)), ("bias", (64,))):
            numel = int(np.prod(shape))
            parameters.append(Parameter(f"{name}.{part}", i + 1, shape, "float32", numel))
    return LayerTable("Net", tuple(layers), tuple(parameters))


def instrumented(table: LayerTable, step: int) -> Flow:
    """A step in which every layer was called once."""
    stats = TensorStats(1.0, 0.5, 0.0, 0, 0, 4096)
    calls = [
        Call(i, i, stats, stats, stats, stats, batch=64, depth=min(i, 1), dtype="float32")
        for i in range(len(table.layers))
    ]
    return Flow(step, calls, loss={"kind": "mse", "value": 1.0, "multiplier": 1.0})


@dataclass
class Run:
    """A made-up training of `steps` steps; spikes: step -> (column of "gradient", value)."""

    table: LayerTable
    writer: Writer
    steps: int
    spikes: dict[int, tuple[int, float]] = field(default_factory=dict)
    spent: float = 0.0  # seconds in the recording path, of the trainer's thread

    def __post_init__(self) -> None:
        """Make the ledger, the rows and the spikes."""
        counts = {
            Axis.GROUP: 2,
            Axis.PARAMETER: len(self.table.parameters),
            Axis.BLOCK: len(choose_blocks(self.table)),
        }
        self.ledger = Ledger(0, self.table, counts, self.writer)
        noise = np.random.default_rng(0)
        columns = {name: q.columns(counts) for name, q in QUANTITIES.items()}
        self._pool = {n: noise.lognormal(size=(_POOL, count)) for n, count in columns.items()}
        steps = random.sample(range(self.steps), min(_SPIKES, self.steps))
        for rank, step in enumerate(steps):
            self.spikes[step] = (random.randrange(columns["gradient"]), 1e6 + rank)

    def take(self, step: int) -> None:
        """One step, as `watching.training` records it."""
        ledger = self.ledger
        for name, row in ledger.rows.items():
            row[:] = self._pool[name][step % _POOL]
        spike = self.spikes.get(step)
        if spike is not None:
            ledger.rows["gradient"][spike[0]] = spike[1]
        begin = time.perf_counter()
        if step % _SAMPLED == 0:
            for name, rows in self._pool.items():
                if name not in ledger.rows:
                    ledger.put(step, name, rows[step % _POOL])
        if spike is not None:
            ledger.alarm(step, "spike", {"parameters": [spike[0] // 5], "factor": spike[1]})
        if step & (step - 1) == 0 and step.bit_length() % 2:
            ledger.flow(instrumented(self.table, step))
        ledger.commit(step)
        self.spent += time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Reading:
    """A look at the process and the folder at one step; `folder` is the largest so far."""

    step: int
    resident: float
    objects: int
    blocks: int
    folder: int
    microseconds: float
    melted: int

    @staticmethod
    def take(step: int, folder: int, seconds: float, writer: Writer) -> Reading:
        """Now. seconds: what a step has taken since the last reading."""
        gc.collect()
        return Reading(
            step,
            resident(),
            len(gc.get_objects()),
            sys.getallocatedblocks(),
            folder,
            1e6 * seconds,
            sum(writer._backlog.melted.values()),
        )


def resident() -> float:
    """MiB of memory that the process has in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of the folder, side files included."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.exists())


def drive(run: Run, wait: bool) -> Iterator[Reading]:
    """Take all steps, yielding a reading after 10, 100 ... of them, more often towards the end."""
    marks = {10**k - 1 for k in range(1, 6)} | {run.steps * k // 10 - 1 for k in range(2, 11)}
    last, largest = -1, 0
    for step in range(run.steps):
        run.take(step)
        while wait and run.writer._backlog.pressing and run.writer.problem is None:
            time.sleep(0.001)
        if step % 1000 == 0 or step in marks:
            largest = max(largest, folder_bytes(run.writer.folder))
        if step in marks:
            yield Reading.take(step + 1, largest, run.spent / (step - last), run.writer)
            last, run.spent = step, 0.0


def train(watch: surefoot.Watch, step: Callable[[], None], seconds: float) -> Iterator[Reading]:
    """Train for so long, yielding ten readings."""
    writer = watch._session._writer
    assert writer is not None and watch.folder is not None
    begin, taken = time.perf_counter(), 0
    for part in range(10):
        before, start = taken, time.perf_counter()
        while time.perf_counter() - begin < seconds * (part + 1) / 10:
            step()
            taken += 1
        each = (time.perf_counter() - start) / max(taken - before, 1)
        yield Reading.take(taken, folder_bytes(watch.folder), each, writer)


def small_training() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
    """(model, optimizer, one step) of a perceptron of two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = torch.randn(1024, 16), torch.randint(0, 4, (1024,))

    def step() -> None:
        rows = torch.randint(0, 1024, (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    return model, optimizer, step


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Print what it took, on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    console.print(f"{what:<44} {wall:7.3f} s, {cpu:7.3f} s of CPU")


def lost(run: Run, folder: Path) -> int:
    """Spikes that the record no longer holds, in the bucket that covers their step."""
    series = read_run(folder).series["gradient"]
    steps = np.array(list(run.spikes))
    columns, values = np.array(list(run.spikes.values())).T
    at = np.searchsorted(series.steps, steps)
    kept = series.high[at, columns.astype(int)]
    # Of several in one bucket and column the highest is its high.
    return int((kept < values.astype(np.float32)).sum())


def show(console: Console, title: str, readings: Iterator[Reading]) -> None:
    """Take the readings and print them."""
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for heading in ("steps", "RSS MiB", "objects", "blocks", "folder MiB", "us/step", "melted"):
        table.add_column(heading, justify="right")
    begin = time.perf_counter()
    for seen in readings:
        table.add_row(
            f"{seen.step:,}",
            f"{seen.resident:.1f}",
            f"{seen.objects:,}",
            f"{seen.blocks:,}",
            f"{seen.folder / _MIB:.1f}",
            f"{seen.microseconds:.1f}",
            f"{seen.melted:,}",
        )
    console.print(table)
    console.print(f"in {time.perf_counter() - begin:.0f} s")


@click.command(help=__doc__)
@click.option("--steps", default=1_000_000, show_default=True)
@click.option("--tensors", default=150, show_default=True, help="Parameters of the model.")
@click.option("--limit", default=LIMIT_BYTES >> 20, show_default=True, help="MiB of the folder.")
@click.option("--flat-out", is_flag=True, help="Do not wait for the writer.")
@click.option("--seconds", default=0.0, help="Train a small model for so long instead.")
def main(steps: int, tensors: int, limit: int, flat_out: bool, seconds: float) -> None:
    """Record, read back and draw; print what each took."""
    random.seed(0)
    torch.set_num_threads(1)
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as made:
        if seconds:
            model, optimizer, step = small_training()
            with surefoot.watch(model, optimizer, runs=made, name="long") as watch:
                show(console, "a perceptron of two layers", train(watch, step, seconds))
            look(console, Path(made, "long"))
            return
        writer = Writer(new_folder(Path(made), "long"), {}, limit_bytes=limit * _MIB)
        run = Run(perceptron(tensors), writer, steps)
        title = f"{tensors} parameters, at most {limit} MiB"
        show(console, title, drive(run, wait=not flat_out))
        with timed(console, "verdict from memory"):
            report = diagnose(run.ledger.case(Facts(steps=steps)), frozenset())
        with timed(console, "close"):
            writer.close(report)
        console.print(f"folder {folder_bytes(writer.folder) / _MIB:.1f} MiB of {limit}")
        console.print(f"problem: {writer.problem}")
        look(console, writer.folder)
        console.print(f"{lost(run, writer.folder)} of {len(run.spikes)} spikes lost")


def look(console: Console, folder: Path) -> None:
    """Open the run as the reader and the views do."""
    before = resident()
    if hasattr(os, "posix_fadvise"):
        with open(folder / DATABASE, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for what in ("open in the reader, from the disk", "open in the reader, again"):
        with timed(console, what):
            data = read_run(folder)
    console.print(f"that took {resident() - before:.0f} MiB more")
    for name, spec in FIGURES.items():
        with timed(console, f"figure {name}"):
            spec.draw(data)
    with timed(console, "report"):
        page = render_report(data)
    console.print(f"report of {len(page) / _MIB:.2f} MiB")


if __name__ == "__main__":
    main()
