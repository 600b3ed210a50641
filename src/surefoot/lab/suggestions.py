"""What to change: the remedies that the findings prescribe, in their order, as choices of the lab.

A remedy that the lab has no choice for (clipping, mixed precision, a search for a rate) is passed
over. Nothing is suggested that no finding asks for, and nothing was tried: a click tries it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from surefoot.findings import Finding, Remedy, Severity
from surefoot.lab.choices import BY_KEY, Between, Choices
from surefoot.lab.published import spread
from surefoot.remedies.initialization.drawn import backward_gain_of, gain_of

MOST = 3
Change = dict[str, Any]
Suggestion = tuple[str, Choices]


def suggestions(choices: Choices, findings: Iterable[Finding]) -> tuple[Suggestion, ...]:
    """(label, choices) of at most three changes, each of them one remedy."""
    found: list[Suggestion] = []
    serious = [f for f in findings if f.severity is not Severity.ADVICE]
    for remedy in (r for f in serious for r in f.remedies):
        changed = changed_by(remedy, choices)
        if changed is not None and changed not in (choices, *(c for _, c in found)):
            found.append((label(choices, changed), changed))
    return tuple(found[:MOST])


def changed_by(remedy: Remedy, choices: Choices) -> Choices | None:
    """What a remedy makes of the choices; None where the lab has no choice for it."""
    change = _CHANGES.get(remedy.remedy)
    return None if change is None else replace(choices, **_inside(change(remedy, choices)))


def label(before: Choices, after: Choices) -> str:
    """What has to be chosen to come from one to the other.

    >>> label(Choices(), Choices(skips="rezero", learning_rate=0.1))
    'Skip connections: ReZero: x + a f(x), where a begins at 0; Learning rate: 0.1'
    """
    shown = before.words()
    return "; ".join(f"{k}: {v}" for k, v in after.words().items() if shown[k] != v)


def _inside(change: Change) -> Change:
    """The change with its numbers rounded to three digits and held between their bounds."""
    for key, value in change.items():
        choice = BY_KEY[key]
        if isinstance(choice, Between):
            change[key] = min(max(float(f"{value:.3g}"), choice.low), choice.high)
    return change


def _gains(choices: Choices) -> tuple[float, float]:
    """What keeps the signal, and what keeps the gradient, through the chosen activation."""
    function = None if choices.activation == "linear" else choices.activation
    return gain_of(function), backward_gain_of(function)


def _activation(name: str, initialization: str) -> Callable[[Remedy, Choices], Change]:
    """An activation together with the weights that belong to it, as the remedy brings them."""
    change = {"activation": name, "initialization": initialization, "scale": 1.0}
    return lambda remedy, choices: dict(change)


def _drawn(**change: Any) -> Callable[[Remedy, Choices], Change]:
    return lambda remedy, choices: dict(change)


def _kaiming(remedy: Remedy, choices: Choices) -> Change:
    return {"initialization": "kaiming_normal", "scale": _gains(choices)[0] / 2**0.5}


def _xavier(remedy: Remedy, choices: Choices) -> Change:
    return {"initialization": "xavier_normal", "scale": sum(_gains(choices)) / 2}


def _orthogonal(remedy: Remedy, choices: Choices) -> Change:
    return {"initialization": "orthogonal", "scale": _gains(choices)[0]}


def _rescale(remedy: Remedy, choices: Choices) -> Change:
    return {"scale": choices.scale * _gains(choices)[0] / spread(choices)}


def _rate(remedy: Remedy, choices: Choices) -> Change:
    return {"learning_rate": choices.learning_rate * remedy.parameters.get("factor", 0.1)}


_CHANGES: dict[str, Callable[[Remedy, Choices], Change]] = {
    "activation.relu": _activation("relu", "kaiming_normal"),
    "activation.leaky_relu": _activation("leaky_relu", "kaiming_normal"),
    "activation.gelu": _activation("gelu", "kaiming_normal"),
    "activation.selu": _activation("selu", "lecun_normal"),
    "init.kaiming_normal": _kaiming,
    "init.xavier_normal": _xavier,
    "init.orthogonal": _orthogonal,
    "init.rescale": _rescale,
    "init.default": _drawn(initialization="default", scale=1.0),
    "init.looks_linear": _drawn(initialization="looks_linear", scale=1.0),
    "residual.rezero": _drawn(skips="rezero"),
    "residual.skip_init": _drawn(skips="rezero"),
    "residual.identity": _drawn(skips="scaled"),
    "residual.pre_norm": _drawn(skips="scaled", normalization="layer_norm"),
    "normalization.layer_norm": _drawn(normalization="layer_norm"),
    "normalization.batch_norm": _drawn(normalization="batch_norm"),
    "learning_rate.scale": _rate,
}
