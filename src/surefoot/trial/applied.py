"""A remedy on a model in the user's own program: `surefoot.apply(remedy, model)`, and off again."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from surefoot.build import Build, check_build
from surefoot.findings import Remedy
from surefoot.layers import unwrap
from surefoot.remedies import FirstCall, NotApplicable, Subject, Treatment, treatment
from surefoot.remedies.conflicts import conflicts
from surefoot.trial.treated import guarded

# Names alone, by the identity of what applied them: more would keep the model alive.
_IN_FORCE: weakref.WeakKeyDictionary[nn.Module, dict[object, str]] = weakref.WeakKeyDictionary()


class Applied:
    """A remedy that is in force; `undo` takes it back, as leaving `with` does.

    explain() says what it guarantees, and when it does not help; code is what to paste.
    """

    def __init__(self, definition: Treatment, subject: Subject, token: object) -> None:
        self._definition, self._subject, self._token = definition, subject, token

    def undo(self) -> None:
        """Take it back: weights, classes, hooks and settings are what they were; idempotent."""
        self._subject.undo()
        for model in self._subject.models:
            _IN_FORCE.get(unwrap(model), {}).pop(self._token, None)

    @property
    def name(self) -> str:
        """The remedy's."""
        return self._definition.name

    def explain(self) -> str:
        """What it guarantees, when it does not help, what it costs and who found it."""
        return self._definition.explain()

    @property
    def code(self) -> str:
        """Itself as code to paste."""
        return self._definition.code()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def apply(
    remedy: Remedy | str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    batch: Any = None,
) -> Applied:
    """Apply a remedy to a model in place, before it is trained.

    remedy: one of a report's, or a name as "init.kaiming_normal". optimizer: needed by remedies
    that act on it, and trains what a remedy adds; batch: a pair (inputs, targets) or inputs, as for
    `surefoot.check`, needed by remedies that look at data. Random numbers of the program are left
    alone. Raises ValueError for an unknown remedy, for one that does not go with what is in force
    on the model, and where it cannot be applied, with the reason; the model is then as it was.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> before = model[0].weight.clone()
    >>> with apply("init.kaiming_normal", model) as applied:
    ...     changed = not torch.equal(model[0].weight, before)
    >>> changed, torch.equal(model[0].weight, before)
    (True, True)
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise ValueError(f"expected a model (torch.nn.Module) in second place, got {kind}")
    definition = treatment(Remedy(remedy, None, "") if isinstance(remedy, str) else remedy)
    in_force = _IN_FORCE.setdefault(unwrap(model), {})
    for conflict in conflicts([*in_force.values(), definition.name]):
        raise ValueError(f"{conflict}; undo the one that is in force before")
    optimizers = [] if optimizer is None else [optimizer]
    subject = Subject([model], optimizers, _call(model, batch), guarded)
    try:
        definition.apply(subject)
    except NotApplicable as reason:
        subject.undo()
        raise ValueError(f"{definition.name} cannot be applied here: {reason}") from None
    except BaseException:
        subject.undo()
        raise
    token = object()
    in_force[token] = definition.name
    return Applied(definition, subject, token)


def _call(model: nn.Module, batch: Any) -> FirstCall | None:
    if batch is None:
        return None
    build = check_build(Build(model, batch, None))
    args, kwargs = build.arguments()
    return FirstCall(model, tuple(args), kwargs)
