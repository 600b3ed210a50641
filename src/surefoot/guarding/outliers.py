"""Which gradients are out of line: by the median and the MAD of their log norms.

What is out of line does not enter the baseline, so that one spike cannot hide the next, and NaN
never does. Yet nothing is out of line for ever: a level that lasts for 24 steps in a row is the
new level, and one that a quarter of the steps reach is one of the run's own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from surefoot.diagnosis.gate import Gate
from surefoot.guarding.form import Form, each, flag, keys, number, tensor, whole
from surefoot.kernels import NONFINITE, NORM

_FIRST = 4  # steps before anything can be out of line
_EARLY = 100.0  # times the largest norm so far, as long as there is no baseline
_MILD = 4.0  # times the limit: of 360 healthy runs 6 had leaps up to that, and one a larger one
_LOCAL = 64.0  # times its usual norm: one parameter by itself, which the norm of all may not show
_PART = 0.01  # of the norm of all, which it must have become; less does no harm
_LASTS = 24  # steps in a row: a new level
_OF, _FREQUENT = 64, 8  # of so many steps so many were out of line: it is the run's own way
_LEAP = 8.0  # times the upper quartile: what a quarter of the steps reach is no leap
_BASELINE = 16  # steps that Gate takes for its first


@dataclass(slots=True)
class Judgement:
    """Of one step. lost: parameters whose gradient is not finite; outlying: whether the norm of all
    is out of line, `factor` times the usual and `excess` times the limit; local: index -> factor of
    parameters that are so by themselves; culprit: the index of the one that stands out most."""

    norm: float
    lost: tuple[int, ...] = ()
    outlying: bool = False
    usual: float = math.nan
    factor: float = 1.0
    excess: float = 1.0
    local: Mapping[int, float] = field(default_factory=dict)
    culprit: int | None = None

    @property
    def mild(self) -> bool:
        """Whether it is out of line by so little that healthy runs know it."""
        return self.outlying and self.excess < _MILD


class Outliers:
    """Of one optimizer. in_a_row: how many finite steps have been out of line since the last that
    was not; frequent: whether leaps are this run's own way."""

    def __init__(self, parameters: int) -> None:
        self._parameters = parameters
        self._recent: deque[bool] = deque(maxlen=_OF)  # whether each was out of line
        self._norms: deque[float] = deque(maxlen=_OF)
        self._row = np.empty(parameters + 1)
        self._fine = np.zeros(parameters + 1)
        self._begin()

    def _begin(self) -> None:
        self._gate = Gate(self._parameters + 1)  # the last column is the norm of all
        self._steps, self._largest = 0, 0.0  # of the baseline
        self.in_a_row = 0

    @property
    def frequent(self) -> bool:
        """Whether leaps of the norm are frequent."""
        return sum(self._recent) >= _FREQUENT

    def judge(self, rows: np.ndarray, norm: float) -> Judgement:
        """Of the statistics [P, 5] of a step's gradients and the norm of all of them."""
        if np.count_nonzero(bad := rows[:, NONFINITE] > 0):
            return Judgement(norm, lost=tuple(np.flatnonzero(bad).tolist()))
        self._row[:-1], self._row[-1] = rows[:, NORM], norm
        above = self._above(norm)
        outlying = above and norm > _LEAP * self._upper()
        self._recent.append(outlying)
        self._norms.append(norm)
        if outlying:
            return self._out_of_line(rows, norm)
        self.in_a_row = 0
        self._steps, self._largest = self._steps + 1, max(self._largest, norm)
        tripped = self._gate.check(self._row, self._fine)
        local = {} if tripped is None or above else self._local(tripped, norm)
        return Judgement(
            norm, local=local, culprit=max(local, key=lambda i: local[i], default=None)
        )

    def _out_of_line(self, rows: np.ndarray, norm: float) -> Judgement:
        self.in_a_row += 1
        usual, culprit = self._usual(), self._culprit(rows)
        early = self._steps < _BASELINE
        excess = math.inf if early else norm / self._gate.limit(-1)
        if self.in_a_row >= _LASTS:
            self._begin()
        factor = norm / usual if usual else math.inf
        return Judgement(
            norm, outlying=True, usual=usual, factor=factor, excess=excess, culprit=culprit
        )

    def _above(self, norm: float) -> bool:
        if self._steps < _BASELINE:
            early = _EARLY * self._largest
            return self._steps >= _FIRST and norm > early > 0.0
        return norm > self._gate.limit(-1)

    def _upper(self) -> float:
        """The upper quartile of the latest norms, those out of line too."""
        return sorted(self._norms)[len(self._norms) * 3 // 4] if self._norms else 0.0

    def _usual(self) -> float:
        """The norm of all, as it usually is."""
        usual = float(self._gate.usual(np.array([self._parameters]))[0])
        return usual if math.isfinite(usual) else self._largest

    def _local(self, tripped: np.ndarray, norm: float) -> dict[int, float]:
        _, factors = self._gate.scores(tripped)
        large = self._row[tripped] >= _PART * norm
        found = zip(tripped.tolist(), factors.tolist(), large.tolist(), strict=True)
        return {i: f for i, f, part in found if part and f >= _LOCAL and i < self._parameters}

    def _culprit(self, rows: np.ndarray) -> int | None:
        """Among those that make up the norm, the one that has grown most."""
        norms = np.nan_to_num(rows[:, NORM])
        if not len(norms) or not (top := norms.max()):
            return None
        large = np.flatnonzero(norms >= 0.3 * top)
        growth = norms[large] / np.maximum(self._gate.usual(large), 1e-300)
        growth[np.isnan(growth)] = 0.0
        return int(large[np.lexsort((norms[large], growth))[-1]])

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {
            "recent": list(self._recent),
            "norms": list(self._norms),
            "steps": self._steps,
            "largest": self._largest,
            "in_a_row": self.in_a_row,
            "gate": {k: torch.from_numpy(v) for k, v in self._gate.state().items()},
        }

    def form(self) -> Form:
        """That of the state of as many parameters."""
        of = f"the baseline of {self._parameters} parameters"
        gate = {k: tensor(torch.from_numpy(v), of) for k, v in self._gate.state().items()}
        return keys(
            recent=each(flag, most=_OF), norms=each(number, most=_OF), steps=whole,
            largest=number, in_a_row=whole, gate=keys(**gate),
        )  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError if it is of another number of parameters."""
        self._recent = deque(map(bool, state["recent"]), maxlen=_OF)
        self._norms = deque(map(float, state["norms"]), maxlen=_OF)
        self._steps, self._largest = int(state["steps"]), float(state["largest"])
        self.in_a_row = int(state["in_a_row"])
        self._gate.load({k: state["gate"][k].numpy() for k in self._gate.state()})
