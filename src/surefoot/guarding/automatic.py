"""`clip="auto"`: which clipping a run needs, by its own statistics, and why.

As a rule none but that of the ladder: what is out of line is brought to its usual size. The loss of
a recurrent net has cliffs (Pascanu, Mikolov & Bengio 2013), at which single gradients throw the
weights away before there is anything to compare them with. Where the first steps show such a leap
the run begins again, with the norm clipped as every recipe for such nets does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import copy
from statistics import median
from typing import Any

from torch import nn

from surefoot.guarding.clipping import Cut
from surefoot.guarding.form import each, keys, number, text, whole
from surefoot.guarding.outliers import Judgement

_ALONE = "the gradient of this parameter is out of line, that of all together is not"
_FIRST = 32  # steps in which a recurrent net may show that it leaps
_BEYOND = 3.0  # times the largest norm so far, in the first steps
_RECENT, _LEAP = 8, 4.0  # or times the median of so many latest ones
_SHARE = 0.4  # of the first loss: 0.92 for ten classes, where 1 is the usual choice
_LEAST = 0.2  # of the usual norm: a run that was taken up again begins with a small loss
_FORM = keys(limit=number, why=text, steps=whole, norms=each(number, most=_RECENT), first=number)


class Automatic:
    """limit: the norm to clip to, infinite for none; why: in words, empty without one.

    The limit is a share of the first loss, so that a loss times any number is clipped alike: along
    a gradient of that norm the loss could not fall to zero within less than a distance of 2.5. It
    is a fifth of the usual norm at least.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._recurrent = any(
            isinstance(m, (nn.RNNBase, nn.RNNCellBase)) for root in modules for m in root.modules()
        )
        self.limit, self.why = math.inf, ""
        self._steps, self._first = 0, math.nan
        self._norms: list[float] = []  # the latest

    @property
    def words(self) -> str:
        """What is clipped, and why."""
        return self.why or "what is out of line for this run, to its usual size"

    def cut(self, judged: Judgement, reason: str) -> tuple[Cut, str]:
        """What is to be done to the gradients of a step, and why.

        reason: of the ladder, where what is out of line is not held back.
        """
        if judged.outlying:
            return Cut(judged.excess if judged.mild else max(judged.factor, 1.0)), reason
        if judged.norm > self.limit:
            return Cut(judged.norm / self.limit), self.why
        if judged.local:
            return Cut(divisors=dict(judged.local)), _ALONE
        return Cut(), ""

    def leapt(self, norm: float, loss: float | None) -> bool:
        """Whether a step's norm, which is finite, shows that from now on there is a limit."""
        if not self._recurrent or self._steps >= _FIRST or self.why:
            return False
        if not self._steps and loss is not None:
            self._first = abs(loss)
        usual = self._usual()
        if norm > usual > 0.0 and self._first > 0.0 and math.isfinite(self._first):
            self.limit = max(_SHARE * self._first, _LEAST * median(self._norms))
            self.why = (
                f"a recurrent net, whose gradient leapt from {median(self._norms):.3g} to "
                f"{norm:.3g} in its first steps: clipped to a norm of {self.limit:.3g}, "
                f"from the first loss of {self._first:.3g}"
            )
        self._steps += 1
        self._norms = [*self._norms[1 - _RECENT :], norm]
        return bool(self.why)

    def _usual(self) -> float:
        """The norm above which the next one is a leap."""
        if len(self._norms) < _RECENT:
            return _BEYOND * max(self._norms, default=math.inf)
        return _LEAP * median(self._norms)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        kept = ("limit", "why", "_steps", "_norms", "_first")
        return {name.strip("_"): copy(getattr(self, name)) for name in kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError, and stays as it is, if it is none."""
        _FORM(state, "")
        self.limit, self.why = float(state["limit"]), str(state["why"])
        self._steps, self._norms = int(state["steps"]), list(map(float, state["norms"]))
        self._first = float(state["first"])
