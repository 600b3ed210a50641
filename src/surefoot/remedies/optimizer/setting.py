"""Numbers of an optimizer, changed in all of its groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.updates import Act

# The new value of a setting, given the old one; the same where it is to stay.
Change = Callable[[Any], Any]


def change(subject: Subject, name: str, new: Change) -> None:
    """Change a setting in every group of every optimizer, and for groups that come later.

    Raises NotApplicable where no optimizer has it, or where it stays what it is in all of them.
    """
    groups = [g for o in subject.optimizers for g in o.param_groups]
    having = [g for g in groups if g.get(name) is not None]
    if groups and not having:
        kinds = ", ".join(sorted({type(o).__name__ for o in subject.optimizers}))
        raise NotApplicable(f"{kinds} has no {name}")
    if groups and all(new(g[name]) == g[name] for g in having):
        raise NotApplicable(f"{name} is {having[0][name]} already")

    def act(optimizer: torch.optim.Optimizer) -> None:
        for holder in (*optimizer.param_groups, optimizer.defaults):
            if holder.get(name) is not None:
                put(subject, holder, name, new(holder[name]))

    hold(subject, act)


def hold(subject: Subject, act: Act) -> None:
    """Change each optimizer now, and again before each step.

    The program may load a state, or add a group of parameters, that says otherwise. `act` must
    change nothing where it has been done already.
    """

    def follow(optimizer: torch.optim.Optimizer) -> None:
        act(optimizer)
        handle = optimizer.register_step_pre_hook(lambda o, args, kwargs: act(o))
        subject.on_undo(handle.remove)

    subject.follow(follow)


def put(subject: Subject, holder: dict[str, Any], name: str, value: Any) -> None:
    """Write an entry of a group, which comes back with `undo`."""
    before = holder[name]
    if before != value:
        holder[name] = value
        subject.on_undo(lambda: holder.__setitem__(name, before))


def beta(number: int, value: float) -> Change:
    """The betas with one of them changed; a single number (RMSprop's alpha) is it itself."""

    def new(before: Any) -> Any:
        if not isinstance(before, (tuple, list)):
            return value
        changed = list(before)
        changed[number - 1] = value
        return type(before)(changed)

    return new


def within(name: str, value: Any, low: float, high: float) -> float:
    """A parameter that must be a number in [low, high); raises ValueError."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value < high:
        raise ValueError(f"expected {name} in [{low:g}, {high:g}), got {value!r}")
    return float(value)
