"""That all ranks decide alike: what each of them saw of a step, in one small exchange.

The gradients that DistributedDataParallel leaves are the same everywhere, the losses are not, nor
is the time that it takes to keep a state; a decision that hangs on them must hang on the same
number on every rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from surefoot.attach.distributed import alone, world
from surefoot.attach.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a step, on one rank or on all. lost: whether any gradient is not finite; norm: of all of
    them; loss: None where it is not known or not finite; good: the step of the state that can be
    rolled back to, None without; due: whether it is time to keep another."""

    lost: bool
    norm: float
    loss: float | None
    good: int | None
    due: bool


class Agreement:
    """Between the ranks of the default group. key: what tells the guard from others of its kind."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._exchange: Exchange | None = None

    def on(self, here: Facts) -> Facts:
        """Of all ranks: lost on any, the largest norm, the mean loss, the state that all have kept,
        due on all. As they are here if this process trains by itself.

        Raises RuntimeError if the others do not answer: what a guard does to the step of one rank
        alone, the others take, and from then on their models differ.
        """
        if alone():
            return here
        row = [here.lost, here.norm, _number(here.loss), _number(here.good), here.due]
        told = self._gather(np.array(row, dtype=float))
        with np.errstate(all="ignore"):
            norm = float(np.nanmax(told[:, 1], initial=0.0))
            loss, good = float(told[:, 2].mean()), told[:, 3]
        return Facts(
            bool(told[:, 0].any()),
            norm,
            loss if math.isfinite(loss) else None,
            int(good[0]) if bool((good == good[0]).all()) else None,
            bool(told[:, 4].all()),
        )

    def _gather(self, row: np.ndarray) -> np.ndarray:
        if self._exchange is None:
            here = world(self._key)
            if here is None:
                raise RuntimeError("the processes share no store")
            self._exchange = Exchange(here, tuple(range(here.size)), "guard")
        if (told := self._exchange.gather(row)) is None:
            raise RuntimeError(f"the ranks cannot decide alike: {self._exchange.broken}")
        return told

    def close(self) -> None:
        """Nobody waits for this rank any more."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
