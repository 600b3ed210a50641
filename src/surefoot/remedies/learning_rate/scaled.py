"""A learning rate that is multiplied while a step runs, and is as it was before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from surefoot.remedies.subject import NotApplicable, Subject


def scale_steps(subject: Subject, factor_at: Callable[[int], float]) -> None:
    """Multiply the rates of each optimizer during each of its steps, by `factor_at(step)`.

    Schedulers and programs read and write the rate between steps, so they see their own. Raises
    NotApplicable where no optimizer has a rate.
    """

    def follow(optimizer: torch.optim.Optimizer) -> None:
        rates = _Rates(factor_at)
        subject.on_undo(rates.restore)
        subject.on_undo(optimizer.register_step_pre_hook(rates.before).remove)
        subject.on_undo(optimizer.register_step_post_hook(rates.after).remove)

    groups = [g for o in subject.optimizers for g in o.param_groups]
    if groups and not any(_rate(g) for g in groups):
        raise NotApplicable("the optimizer has no learning rate of its own")
    subject.follow(follow)


class _Rates:
    """The rates of one optimizer during one step."""

    def __init__(self, factor_at: Callable[[int], float]) -> None:
        self._factor_at = factor_at
        self._steps = 0
        self._kept: list[Callable[[], bool]] = []

    def before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Multiply."""
        self.restore()  # a step that raised did not come to its end
        self._kept.clear()
        factor = self._factor_at(self._steps)
        if factor == 1.0:
            return
        seen: set[int] = set()
        for group in optimizer.param_groups:
            if not _rate(group):
                continue
            # torch gives all groups the one tensor that it was given itself.
            if isinstance(group["lr"], torch.Tensor):
                if id(group["lr"]) not in seen:
                    seen.add(id(group["lr"]))
                    self._kept.append(_multiplied_tensor(group, factor))
            else:
                self._kept.append(_multiplied_number(group, factor))

    def after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Put back."""
        self.restore()
        self._steps += 1

    def restore(self) -> None:
        """Put back what was there, unless somebody has set another rate since.

        That may be for the time of the step only, as a guard does that slows a training down: what
        could not be put back is tried once more before the next step.
        """
        self._kept = [restored for restored in self._kept if not restored()]


def _multiplied_number(group: dict[str, Any], factor: float) -> Callable[[], bool]:
    before, scaled = group["lr"], group["lr"] * factor
    group["lr"] = scaled

    def restored() -> bool:
        if group["lr"] is not scaled:
            return False
        group["lr"] = before
        return True

    return restored


def _multiplied_tensor(group: dict[str, Any], factor: float) -> Callable[[], bool]:
    """In place: a captured or compiled step reads this very tensor."""
    rate = group["lr"]
    before = rate.detach().clone()
    with torch.no_grad():
        rate.mul_(factor)
    scaled = rate.detach().clone()

    def restored() -> bool:
        if not bool((rate == scaled).all()):
            return False
        with torch.no_grad():
            rate.copy_(before)
        return True

    return restored


def _rate(group: dict[str, Any]) -> bool:
    rate = group.get("lr")
    return isinstance(rate, (int, float, torch.Tensor)) and not isinstance(rate, bool)
