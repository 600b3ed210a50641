"""Whether the loss has left its level: as no noise does, and at the cost of what was learned.

A loss is trusted only where it has fallen since the run began; where it says nothing of progress
(rewards, two networks against each other) it is never out of line.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from surefoot.guarding.form import Form, each, keys, number, whole

_FIRST = 8  # losses that say where the run began
_WINDOW = 32  # latest ones that say where it is
_LEAST = 24
_SHARE = 0.25  # of what was learned since the beginning


class LossLevel:
    """Above the largest of the last 32 losses by as much as that is above their median, and by a
    quarter of what was learned. Were the losses mere noise, eight in a row would all be above those
    32 with a probability of 1 to 77 million (8! 32! / 40!), however they are distributed; and the
    limit lies higher than that."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._limit = math.inf
        self.in_a_row = 0  # losses above the limit

    @property
    def limit(self) -> float:
        """Above it a loss is out of line; infinite as long as there is nothing to compare with."""
        return self._limit

    def hear(self, loss: float | None) -> bool:
        """Whether this loss is out of line; those that are do not move the level."""
        if loss is None or not math.isfinite(loss):
            return False
        if loss > self._limit:
            self.in_a_row += 1
            return True
        self.in_a_row = 0
        if len(self._first) < _FIRST:
            self._first.append(loss)
        self._recent.append(loss)
        self._limit = self._now()
        return False

    def _now(self) -> float:
        if len(self._recent) < _LEAST:
            return math.inf
        middle, top = median(self._recent), max(self._recent)
        learned = median(self._first) - middle
        spread = top - middle
        if learned <= spread:  # of what noise alone might have brought
            return math.inf
        return top + max(spread, _SHARE * learned)

    def accept(self) -> None:
        """Whatever comes next is the new level."""
        self._first.clear()
        self._recent.clear()
        self._limit, self.in_a_row = math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {
            "first": list(self._first),
            "recent": list(self._recent),
            "limit": self._limit,
            "in_a_row": self.in_a_row,
        }

    @staticmethod
    def form() -> Form:
        """That of the state."""
        recent = each(number, most=_WINDOW)
        return keys(first=each(number, most=_FIRST), recent=recent, limit=number, in_a_row=whole)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._first = [float(x) for x in state["first"]]
        self._recent = deque(map(float, state["recent"]), maxlen=_WINDOW)
        self._limit, self.in_a_row = float(state["limit"]), int(state["in_a_row"])
