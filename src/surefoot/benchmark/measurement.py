"""The cost of watching one training: twice the same, one copy under watch, steps in pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from surefoot.benchmark.copies import Copy, make_copies, seeded
from surefoot.benchmark.cost import Cost, ratio
from surefoot.benchmark.interleave import (
    PROCESSOR,
    WALL,
    Clock,
    Contender,
    Extent,
    take_turns,
)
from surefoot.benchmark.models import BUILT_IN
from surefoot.build import Build, maker
from surefoot.kernels import kernel_name, kernel_reason
from surefoot.kernels.eager import EagerPass
from surefoot.record import new_folder
from surefoot.watching.session import Session

_TURNS = 2


class Unmeasured(RuntimeError):
    """The copy that was to be watched was not, so its times say nothing."""


@contextmanager
def plain(copy: Copy) -> Iterator[Contender]:
    """The training as it is."""
    yield Contender(copy)


@contextmanager
def watched(copy: Copy) -> Iterator[Contender]:
    """The training under watch, with a record in a folder that is removed in the end.

    Raises Unmeasured where there is no room for the folder, and at its end if surefoot did not see
    every step.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="surefoot-")
    except OSError as error:
        raise Unmeasured(f"no temporary folder can be made: {error}") from error
    with temporary as folder:
        session = Session(folder=new_folder(Path(folder)), adopt=False)
        session.start()
        try:
            training, before = session.watch(copy.model, copy.optimizer), copy.taken
            session.pause()
            yield Contender(copy, session.resume, session.pause)
        finally:
            session.stop()
    if session.problem or training.step != copy.taken - before:
        seen = f"{training.step} of {copy.taken - before} steps were watched"
        raise Unmeasured(" ".join([session.problem or seen, *session.report().missing]))


def benchmark(target: str | None, seconds: float) -> list[Cost]:
    """Measure the training that `target` builds, or without one those of `BUILT_IN`, at one thread.

    target: as `surefoot.build.load` takes it; seconds: of all in all, without what is made before.
    Raises as `measure`.
    """
    if target is not None:
        return [measure(maker(target), target, Extent(seconds=seconds / _TURNS))]
    extent = Extent(seconds=seconds / _TURNS / len(BUILT_IN))
    with one_thread():
        return [measure(make, title, extent) for title, make in BUILT_IN.items()]


def measure(
    make: Callable[[], Build], title: str, extent: Extent, clock: Clock | None = None
) -> Cost:
    """Measure what watching costs the training that `make` builds.

    make: called once for each copy; extent: of a turn, of which there are two; clock: the fitting
    one if None. Raises what `make` raises, BuildError and BuildFailed where a step fails, and
    Unmeasured.
    """
    copies = make_copies(make, title)
    clock = clock or fitting_clock(copies[0].device)
    with seeded():
        regimes = {"plain": plain, "watched": watched}
        turns = take_turns(regimes, copies, extent, clock, _TURNS)
    one, device = copies[0], copies[0].device
    return Cost(
        training=title,
        tensors=len(one.parameters),
        parameters=sum(p.numel() for p in one.parameters),
        optimizer=type(one.optimizer).__name__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        threads=torch.get_num_threads(),
        kernel=served_on(device),
        kernel_reason=kernel_reason(),
        clock=clock.name,
        step=float(np.median(np.concatenate([t.steps["plain"] for t in turns]))),
        ratio=ratio(turns, "watched", "plain", threads=True),
    )


def served_on(device: torch.device) -> str:
    """The kernel that read the gradients there: C reads the host's memory alone."""
    name = kernel_name()
    return name if device.type == "cpu" or "triton" in name else EagerPass.name


def fitting_clock(device: torch.device) -> Clock:
    """Processor time where one thread does all the work, so that other load does not count."""
    return PROCESSOR if device.type == "cpu" and torch.get_num_threads() == 1 else WALL


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute in the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
