"""Which rung a step calls for: pure decisions, from what was seen of this step and of those before.

A step whose gradient is not finite, or out of line, is skipped. Three such steps in a row are no
accident any more: where the state of the run is to blame, it is rolled back; where it is not, what
is finite is taken at its usual size from then on, because a level that lasts is accepted. Whether
the state is to blame, the rollback itself shows: if the loss is out of line with the good state as
well, the rollback is taken back. Every rung is bounded, and when all are used up the run is halted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from surefoot.guarding.acts import Rung
from surefoot.guarding.form import Form, each, flag, keys, maybe, number, whole

_IN_A_ROW = 3  # bad steps: no accident any more
_HIGH = 8  # losses out of line in a row
_TRIAL = 4  # losses that show whether a rollback has helped
_LOST, _OF = 64, 128  # of the latest steps, lost: nothing is left to wait for
_ROLLBACKS, _WITHIN = 3, 1000  # that stand, in so many steps; as many may be taken back


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one step: whether its gradient is not finite (`lost`) or out of line, by little, or as it
    frequently is, and its loss with the level above which it is out of line."""

    lost: bool = False
    outlying: bool = False
    mild: bool = False
    frequent: bool = False
    loss: float | None = None
    limit: float = math.inf
    high: int = 0  # losses in a row above it, this one too


@dataclass(slots=True)
class _Row:
    """Bad steps of one optimizer."""

    lost: int = 0  # in a row
    bad: int = 0  # in a row
    renewed: bool = False  # the state was rolled back during this row of lost steps
    recently: deque[bool] = field(default_factory=lambda: deque(maxlen=_OF))

    def note(self, seen: Seen) -> None:
        self.recently.append(seen.lost)
        self.lost = self.lost + 1 if seen.lost else 0
        self.renewed = self.renewed and seen.lost
        self.bad = self.bad + 1 if seen.outlying and not seen.lost else 0


class Ladder:
    """Of the optimizers of one model. rollbacks: how many stand, of the latest 1,000 steps."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._stood: list[int] = []  # steps at which a rollback was made that stands
        self._undone: list[int] = []
        self._trial: list[float] | None = None  # losses since a rollback that has to prove itself
        self._limit = math.inf  # by which it does

    def serve(self, optimizers: int) -> None:
        """Decide for so many optimizers from now on."""
        self._rows = [_Row() for _ in range(optimizers)]

    @property
    def rollbacks(self) -> int:
        """How many rollbacks stand, of the latest 1,000 steps."""
        return len(self._stood)

    @property
    def calm(self) -> bool:
        """Whether nothing is wrong at the moment, as far as the gradients tell."""
        return self._trial is None and not any(row.lost or row.bad for row in self._rows)

    def decide(self, which: int, seen: Seen, step: int, ready: bool) -> tuple[Rung | None, str]:
        """What the step of an optimizer calls for, and why.

        ready: whether there is a good state to roll back to. CLIP asks for the usual size.
        """
        row = self._rows[which]
        row.note(seen)
        self._stood = [s for s in self._stood if step - s < _WITHIN]
        self._undone = [s for s in self._undone if step - s < _WITHIN]
        if seen.lost:
            return self._lost(row, step, ready)
        if self._trial is not None and not which and (undone := self._try(seen)):
            return undone
        blamed = self._trial is None and self._state_to_blame(row, seen)
        if blamed and (decision := self._roll_back(seen, step, ready)):
            return decision
        return self._outlying(row, seen)

    def _lost(self, row: _Row, step: int, ready: bool) -> tuple[Rung | None, str]:
        count = sum(row.recently)
        if count > _LOST:
            words = f"{count} of the last {len(row.recently)} gradients were not finite"
            return Rung.HALT, words
        if row.lost >= _IN_A_ROW and not row.renewed and ready:
            words = f"{row.lost} gradients in a row were not finite"
            if len(self._stood) >= _ROLLBACKS:
                return Rung.HALT, f"{words}, after {len(self._stood)} rollbacks"
            for one in self._rows:
                one.renewed = one.lost > 0
            self._stood.append(step)
            self._trial = None
            return Rung.ROLL_BACK, words
        return Rung.SKIP, "the gradient is not finite"

    def _state_to_blame(self, row: _Row, seen: Seen) -> bool:
        return seen.high >= _HIGH or (row.bad >= _IN_A_ROW and seen.high >= _IN_A_ROW)

    def _roll_back(self, seen: Seen, step: int, ready: bool) -> tuple[Rung, str] | None:
        high = f"{seen.loss:.3g}, usual is less than {seen.limit:.3g}"
        words = f"{seen.high} losses in a row were out of line ({high})"
        if not ready or len(self._undone) >= _ROLLBACKS:
            return None
        if len(self._stood) >= _ROLLBACKS:
            return Rung.HALT, f"{words}, after {len(self._stood)} rollbacks"
        self._stood.append(step)
        self._trial, self._limit = [], seen.limit
        return Rung.ROLL_BACK, words

    def _try(self, seen: Seen) -> tuple[Rung, str] | None:
        """One more loss since the rollback; after four it stands or is taken back."""
        assert self._trial is not None
        if seen.loss is None or not math.isfinite(seen.loss):
            return None
        self._trial.append(seen.loss)
        if len(self._trial) < _TRIAL:
            return None
        middle, self._trial = median(self._trial), None
        if middle <= self._limit:
            return None
        self._undone.append(self._stood.pop())
        words = f"the loss is as high with the earlier state ({middle:.3g}): it is not to blame"
        return Rung.UNDO, words

    def _outlying(self, row: _Row, seen: Seen) -> tuple[Rung | None, str]:
        if not seen.outlying:
            return None, ""
        if seen.mild:
            return Rung.CLIP, "the gradient is out of line, by less than four times the limit"
        if seen.frequent:
            return Rung.CLIP, "the gradient is out of line, as it often is in this run"
        if row.bad > _IN_A_ROW:
            return Rung.CLIP, "the gradient stays out of line: taken at its usual size"
        return Rung.SKIP, "the gradient is out of line"

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {
            "rows": [
                {"lost": r.lost, "bad": r.bad, "renewed": r.renewed, "recently": list(r.recently)}
                for r in self._rows
            ],
            "stood": list(self._stood),
            "undone": list(self._undone),
            "trial": self._trial,
            "limit": self._limit,
        }

    def form(self) -> Form:
        """That of the state of as many optimizers."""
        row = keys(lost=whole, bad=whole, renewed=flag, recently=each(flag, most=_OF))
        steps = each(whole)
        return keys(
            rows=each(row, len(self._rows)), stood=steps, undone=steps,
            trial=maybe(each(number)), limit=number,
        )  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._rows = [
            _Row(r["lost"], r["bad"], r["renewed"], deque(r["recently"], maxlen=_OF))
            for r in state["rows"]
        ]
        self._stood, self._undone = list(state["stood"]), list(state["undone"])
        trial, self._limit = state["trial"], float(state["limit"])
        self._trial = None if trial is None else list(map(float, trial))

    def settle(self) -> None:
        """A rollback on trial stands: what it has left is not known any more."""
        self._trial = None
