"""Settings that an optimizer's theory excludes, brought back to what is usual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.optimizer.setting import hold, put
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

# Setting -> (what is usual, whether a value is excluded), as rule SF308 has them.
_USUAL: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "momentum": (0.9, lambda x: x >= 0.99),
    "beta1": (0.9, lambda x: x >= 0.99),
    "beta2": (0.999, lambda x: False),  # only ever together with beta1
    "alpha": (0.99, lambda x: x >= 0.999),
    "dampening": (0, lambda x: x >= 0.9),
    "eps": (1e-8, lambda x: x >= 1e-2),
    "initial_accumulator_value": (0, lambda x: x >= 1.0),
    "maximize": (False, bool),
}
_FREE = ("weight_decay", "lr_decay", "lambd", "momentum_decay")  # changed only when asked for


class Settings(Treatment):
    """The settings given; without any, those that are excluded become what is usual."""

    name = "optimizer.settings"
    why = "the values that optimizers come with suit most networks"
    guarantee = "no setting but the learning rate is one that the optimizer's theory excludes"
    formula = "beta1^2 < beta2; momentum < 0.99; a step adds up 1 / (1 - momentum) gradients"
    source = "Kingma & Ba 2015, section 4; Polyak 1964; definitions in torch.optim"
    limits = (
        "where the learning rate itself is wrong, which is never touched",
        "where the optimizer is made anew at every step: that is the program's to change",
    )
    defaults: ClassVar[Mapping[str, Any]] = dict.fromkeys((*_USUAL, *_FREE))

    def apply(self, subject: Subject) -> None:
        """Set them, in every group. Raises NotApplicable where nothing changes."""
        asked = {k: v for k, v in self.parameters.items() if v is not None}
        found = [_changes(g, asked) for o in subject.optimizers for g in o.param_groups]
        if subject.optimizers and not any(found):
            what = "are as asked for" if asked else "are within what is usual"
            raise NotApplicable(f"the settings of the optimizer {what} already")

        def act(optimizer: torch.optim.Optimizer) -> None:
            for holder in (*optimizer.param_groups, optimizer.defaults):
                changes = _changes(holder, asked)
                if "initial_accumulator_value" in changes and "params" in holder:
                    _start_again(subject, optimizer, holder, changes)
                for name, value in changes.items():
                    put(subject, holder, name, value)

        hold(subject, act)

    def code(self) -> str:
        """Itself as code to paste."""
        asked = {k: v for k, v in self.parameters.items() if v is not None}
        betas = tuple(asked.pop(name, _USUAL[name][0]) for name in ("beta1", "beta2"))
        words = [f"{name}={value!r}" for name, value in asked.items()]
        if self.parameters["beta1"] is not None or self.parameters["beta2"] is not None:
            words.append(f"betas={betas!r}")
        given = "".join(f", {word}" for word in words)
        note = "" if words else "   # and a momentum of 0.9 at most"
        return f"optimizer = type(optimizer)(model.parameters(), lr=lr{given}){note}"


def _changes(holder: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Entry of a group -> its new value, of those that change."""
    given = {k: v for k, v in holder.items() if isinstance(v, (int, float))}
    betas = holder.get("betas")
    if isinstance(betas, (tuple, list)) and len(betas) >= 2:
        given |= {"beta1": float(betas[0]), "beta2": float(betas[1])}
    wanted = asked or _usual(given)
    new = {k: v for k, v in wanted.items() if k in given and given[k] != v}
    first, second = new.pop("beta1", None), new.pop("beta2", None)
    if first is not None or second is not None:
        assert isinstance(betas, (tuple, list))
        pair = (betas[0] if first is None else first, betas[1] if second is None else second)
        new["betas"] = type(betas)((*pair, *betas[2:]))
    return new


def _usual(given: dict[str, Any]) -> dict[str, Any]:
    wanted = {k: usual for k, (usual, bad) in _USUAL.items() if k in given and bad(given[k])}
    if "beta2" in given and given["beta1"] ** 2 >= given["beta2"]:
        wanted |= {k: _USUAL[k][0] for k in ("beta1", "beta2")}
    return wanted


def _start_again(
    subject: Subject, optimizer: Any, group: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Adagrad has its first accumulator in its state already: the difference comes off."""
    less = group["initial_accumulator_value"] - changes["initial_accumulator_value"]
    for parameter in group["params"]:
        total = optimizer.state.get(parameter, {}).get("sum")
        if isinstance(total, torch.Tensor):
            with torch.no_grad():
                subject.keep(total).sub_(less).clamp_(min=0)
