"""When the state of a run is kept, and which of the kept states is known to be good.

What was kept a moment ago may be spoilt already without showing it. So there are two: one that has
been followed by enough steps in which nothing was wrong, and one that waits for that.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from surefoot.guarding.form import Form, keys, whole
from surefoot.guarding.slowdown import Slowdown
from surefoot.guarding.snapshot import Snapshot, Subjects

_LOG = logging.getLogger("surefoot")
_SHARE = 0.01  # of the run's time, at most
_SOONEST = 32  # steps between two
_PROVEN = 16  # steps without anything wrong
_TYPICAL = 0.1  # weight of the newest step in the running mean of their duration


class Snapshots:
    """Two places, filled in turn. every: steps between two, 0 for as many as keep them under one
    per cent of the time; problem: why none are taken any more, empty while they are."""

    def __init__(self, every: int, slowdown: Slowdown) -> None:
        self._every, self._slowdown = every, slowdown
        self.good, self._waiting = Snapshot(), Snapshot()
        self.problem = ""
        self._calm = 0  # steps since the waiting one without anything wrong
        self._next = 0
        self._cost = 0.0  # seconds, of the latest
        self._typical: float | None = None  # seconds a step
        self._last: float | None = None

    def begin(self, subjects: Subjects) -> None:
        """Before the first step: what a run begins with is good."""
        self._take(self.good, subjects, -1)

    def due(self, step: int) -> bool:
        """Whether it is time to keep another."""
        return step >= self._next and not self.problem

    def passed(self, subjects: Callable[[], Subjects], step: int, calm: bool, due: bool) -> None:
        """A step has been taken; calm: nothing is wrong; due: on all ranks, for each must keep the
        same."""
        self._clock()
        if not calm:
            self._waiting.clear()
            return
        self._calm += 1
        if self._waiting.step is not None and self._calm >= _PROVEN:
            self.good, self._waiting = self._waiting, self.good
            self._waiting.clear()
        if self._waiting.step is None and due:
            self._take(self._waiting, subjects(), step)

    def restore(self, subjects: Subjects) -> None:
        """Put the good one back."""
        self._waiting.clear()
        self.good.restore(subjects)
        self._last = None

    def keep(self, subjects: Subjects) -> Snapshot:
        """The present state, apart from the two places."""
        kept = Snapshot()
        kept.take(subjects, -1)
        return kept

    def _take(self, place: Snapshot, subjects: Subjects, step: int) -> None:
        begin = time.perf_counter()
        try:
            place.take(subjects, step)
        except Exception as error:  # no memory, as a rule
            self.problem = f"{type(error).__name__}: {error}"
            _LOG.warning("surefoot's guard keeps no state to roll back to: %s", self.problem)
            return
        place.rates = self._slowdown.limited(place.rates, step)
        self._cost, self._calm = time.perf_counter() - begin, 0
        wait = self._cost / (_SHARE * self._typical) if self._typical else 0.0
        self._next = step + (self._every or max(_SOONEST, math.ceil(wait)))
        self._last = None

    def _clock(self) -> None:
        """Note how long a step takes; those during which a state was kept do not count."""
        now = time.perf_counter()
        if self._last is not None:
            took = now - self._last
            before = self._typical if self._typical is not None else took
            self._typical = before + _TYPICAL * (took - before)
        self._last = now

    def state_dict(self) -> dict[str, Any]:
        """Both states, and when the next one is due."""
        return {
            "good": self.good.state_dict(),
            "waiting": self._waiting.state_dict(),
            "calm": self._calm,
            "next": self._next,
        }

    @staticmethod
    def form(subjects: Subjects) -> Form:
        """That of the state of the same model and optimizers."""
        one = Snapshot.form(subjects)
        return keys(good=one, waiting=one, calm=whole, next=whole)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.good.load_state_dict(state["good"])
        self._waiting.load_state_dict(state["waiting"])
        self._calm, self._next = int(state["calm"]), int(state["next"])
