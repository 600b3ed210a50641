"""Steps of several trainings side by side, in random order, in one process.

Other load on the machine then falls on all of them alike, and a ratio within a round says more than
any absolute time. Which copy of the training is whose changes from turn to turn: two copies of a
model never run equally fast.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from surefoot.benchmark.copies import Copy
from surefoot.benchmark.cost import Times

_LEAST_WARM, _LEAST = 2, 3  # rounds, however long they take
_WARM_SHARE = 0.25  # of the time of a turn


def _nothing() -> None:
    """What most contenders have to do between two of their steps."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A copy of a training under one regime; resume, pause: around its step, outside the timing."""

    copy: Copy
    resume: Callable[[], None] = _nothing
    pause: Callable[[], None] = _nothing


# Puts a copy under a regime for the time of a turn.
Regime = Callable[[Copy], AbstractContextManager[Contender]]


@dataclass(frozen=True, slots=True)
class Clock:
    """What a step is timed by.

    read: seconds; others: processor seconds of the process's other threads so far; wall: seconds
    that bound the measurement.
    """

    name: str
    read: Callable[[], float]
    others: Callable[[], float] = field(default=lambda: 0.0)
    wall: Callable[[], float] = time.monotonic


WALL = Clock("wall", time.perf_counter)
# Of the thread that trains: what else the machine does is not in it.
PROCESSOR = Clock(
    "processor", time.thread_time, others=lambda: time.process_time() - time.thread_time()
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a turn is: so many rounds or seconds, whichever end first.

    warm: rounds at its beginning that are not kept, in a quarter of the seconds at most: surefoot
    looks closer at the first steps of a run.
    """

    seconds: float = float("inf")
    rounds: int = 1_000_000
    warm: int = 64


def take_turns(
    regimes: Mapping[str, Regime], copies: Sequence[Copy], extent: Extent, clock: Clock, turns: int
) -> list[Times]:
    """Interleave the regimes, each on another copy in each turn; as many copies as regimes."""
    taken = []
    for turn in range(turns):
        shift = turn * len(copies) // turns
        order = [*copies[shift:], *copies[:shift]]
        with ExitStack() as stack:
            contenders = {
                name: stack.enter_context(regime(copy))
                for (name, regime), copy in zip(regimes.items(), order, strict=True)
            }
            taken.append(interleave(contenders, extent, clock))
    return taken


def interleave(contenders: Mapping[str, Contender], extent: Extent, clock: Clock) -> Times:
    """Time a step of each contender in every round, in random order; at least three rounds."""
    draw = random.Random(0)  # the global generator is the user's
    began = clock.wall()
    for count in range(extent.warm):
        if count >= _LEAST_WARM and clock.wall() - began >= _WARM_SHARE * extent.seconds:
            break
        for name in draw.sample(list(contenders), len(contenders)):
            _timed(contenders[name], clock)
    steps: dict[str, list[float]] = {name: [] for name in contenders}
    before, count = clock.others(), 0
    while count < _LEAST or (count < extent.rounds and clock.wall() - began < extent.seconds):
        for name in draw.sample(list(contenders), len(contenders)):
            steps[name].append(_timed(contenders[name], clock))
        count += 1
    return Times(steps, clock.others() - before)


def _timed(contender: Contender, clock: Clock) -> float:
    """Seconds of one step, with all that it has set going on its device."""
    copy = contender.copy
    contender.resume()
    try:
        copy.settle()
        start = clock.read()
        copy.step()
        copy.settle()
        return clock.read() - start
    finally:
        contender.pause()
