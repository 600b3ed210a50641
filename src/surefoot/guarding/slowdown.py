"""After a rollback the learning rate is held down for a while.

It is lowered only while a step is taken: schedulers and the script find their own rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from surefoot.guarding.form import Form, each, keys, number, whole

_FACTOR = 0.5  # of the rate at the good state, for each rollback that stands
_STEPS = 32  # held there, and as many back


class Slowdown:
    """The largest rates that the groups of optimizers may use."""

    def __init__(self) -> None:
        self._rates: list[list[float]] = []
        self._factor, self._begin = 1.0, 0
        self._own: list[tuple[dict[str, Any], Any]] = []  # (group, rate) while a step is taken

    def begin(self, rates: list[list[float]], rollbacks: int, step: int) -> None:
        """Hold down the rates [optimizers][groups] of the good state."""
        self._rates = [list(r) for r in rates]
        self._factor, self._begin = _FACTOR**rollbacks, step

    def end(self) -> None:
        """Hold nothing down any more."""
        self._rates = []

    def factor(self, step: int) -> float:
        """Of the rates at the good state; infinite when the while is over."""
        past = step - self._begin - _STEPS
        if not self._rates or past >= _STEPS:
            return float("inf")
        return self._factor ** (1 - max(past, 0) / _STEPS)

    def limited(self, rates: list[list[float]], step: int) -> list[list[float]]:
        """What the groups really use at a step, if these are their own rates."""
        factor = self.factor(step)
        if factor == float("inf") or len(rates) != len(self._rates):
            return rates
        held = zip(rates, self._rates, strict=True)
        return [[min(r, k * factor) for r, k in zip(*pair, strict=False)] for pair in held]

    def apply(self, which: int, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Lower the rates of an optimizer that is about to step."""
        if not self._rates:
            return
        factor = self.factor(step)
        if factor == float("inf"):
            return self.end()
        for group, rate in zip(optimizer.param_groups, self._rates[which], strict=False):
            own = group.get("lr")
            if own is None or not float(own) > rate * factor:
                continue
            if isinstance(own, torch.Tensor):  # compiled and captured steps read it in its place
                self._own.append((group, own.clone()))
                own.fill_(rate * factor)
            else:
                self._own.append((group, own))
                group["lr"] = rate * factor

    def undo(self) -> None:
        """Put back what the groups had; idempotent."""
        while self._own:
            group, own = self._own.pop()
            if isinstance(own, torch.Tensor) and isinstance(group["lr"], torch.Tensor):
                group["lr"].copy_(own)
            else:
                group["lr"] = own

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {
            "rates": [list(r) for r in self._rates],
            "factor": self._factor,
            "begin": self._begin,
        }

    @staticmethod
    def form(optimizers: int) -> Form:
        """That of the state of as many optimizers."""

        def rates(value: Any, where: str) -> None:
            each(each(number), None if value in ([], ()) else optimizers)(value, where)

        return keys(rates=rates, factor=number, begin=whole)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._rates = [list(map(float, r)) for r in state["rates"]]
        self._factor, self._begin = float(state["factor"]), int(state["begin"])
