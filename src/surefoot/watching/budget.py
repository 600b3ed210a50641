"""The budget: what detail may cost, of the time that the training itself takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from surefoot.watching.schedule import milestone

_ALLOWANCE = 0.05  # seconds of detail that any run may have
_SHARE = 0.002  # and the share of the elapsed time on top of it
_EVERY = 8  # steps between two samples once the run has begun
_FIRST = 4  # steps of an optimizer that are all sampled
_WARM = 8  # steps of which the quickest is the typical one
_TAKEN = 8  # optimizers in turn of which that holds


class Budget:
    """Of one training. spent: seconds of detail so far; typical: seconds of a step, smoothed."""

    def __init__(self) -> None:
        self.spent = self.typical = 0.0
        self._began = self._last = time.perf_counter()
        self._last_sample = -_EVERY
        self._sampled_until = self._optimizers = self._steps = 0

    def affordable(self, cost: float) -> bool:
        """Whether so many seconds more are within it."""
        elapsed = time.perf_counter() - self._began
        return self.spent + cost <= _ALLOWANCE + _SHARE * elapsed

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Whatever is done inside is paid from it."""
        begin = time.perf_counter()
        yield
        self.spent += time.perf_counter() - begin

    def step_ended(self) -> None:
        """Note how long the step took."""
        now = time.perf_counter()
        took = now - self._last
        self._steps += 1
        if self._steps == 1 or (self._steps <= _WARM and took < self.typical):
            self.typical = took  # the first ones compile, allocate and fill caches
        else:
            self.typical = 0.9 * self.typical + 0.1 * took
        self._last = now

    def set_aside(self, seconds: float) -> None:
        """Time in which something else than this training ran."""
        self._began += seconds
        self._last += seconds

    def optimizer_took_over(self, step: int) -> None:
        """Its first steps are all sampled."""
        self._optimizers += 1
        if self._optimizers <= _TAKEN:
            self._sampled_until = step + _FIRST

    def sampling(self, step: int) -> bool:
        """Whether a step is one of those that are sampled."""
        if step < self._sampled_until or milestone(step):
            return True  # a dozen samples that every verdict can count on
        return step - self._last_sample >= _EVERY and self.affordable(0.0)

    def sampled(self, step: int) -> None:
        """Note that it was."""
        self._last_sample = step
