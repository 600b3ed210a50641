"""What an optimizer does with a gradient, apart from the rate: its scaling, decay and momentum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_Group = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """An optimizer's rule around some weights.

    name: in words; factor: the bound on the rate times the largest eigenvalue of the scaled
    Hessian, None where it is not known. scale: what each parameter's gradient is multiplied by;
    coupled, decoupled: the weight decay of each, before and after that. sign: -1 if it climbs.
    """

    name: str
    factor: float | None
    scale: list[torch.Tensor]
    coupled: list[float]
    decoupled: list[float]
    sign: float


def rule_of(
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.Tensor],
    slope: list[torch.Tensor],
) -> Rule:
    """The rule of an optimizer for its `parameters`, at which the gradients are `slope`.

    Where Adam has no state as yet its second moments are those of its first step.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> adam = torch.optim.Adam([w], lr=1e-3)
    >>> round(rule_of(adam, [w], [torch.ones(1)]).factor, 9)
    38.0
    """
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    of = [groups[id(p)] for p in parameters]
    kind = next((k for k in _KINDS if isinstance(optimizer, k)), None)
    highest = max(float(g["lr"]) for g in optimizer.param_groups)
    shares = [float(g["lr"]) / highest if highest > 0 else 1.0 for g in of]
    scale = [torch.full_like(s, share) for s, share in zip(slope, shares, strict=True)]
    name, factor = type(optimizer).__name__, None
    if kind is not None:
        factor_of, scale_of = _KINDS[kind]
        factor = min((factor_of(g) for g in of), default=None)
        made = zip(scale, parameters, slope, of, strict=True)
        scale = [s * scale_of(optimizer.state.get(p, {}), g, o) for s, p, g, o in made]
    decay = [float(g.get("weight_decay", 0.0)) for g in of]
    apart = [
        isinstance(optimizer, torch.optim.AdamW) or bool(g.get("decoupled_weight_decay"))
        for g in of
    ]
    return Rule(
        name,
        factor,
        scale,
        [0.0 if a else d for d, a in zip(decay, apart, strict=True)],
        [d * s if a else 0.0 for d, a, s in zip(decay, apart, shares, strict=True)],
        -1.0 if any(g.get("maximize") for g in of) else 1.0,
    )


def _of_sgd(group: _Group) -> float:
    beta = group["momentum"]
    heavy = (2 + 2 * beta) / (1 + 2 * beta if group["nesterov"] else 1)
    return heavy / (1 - group["dampening"] if beta else 1)


def _of_adam(group: _Group) -> float:
    beta = float(group["betas"][0])
    return (2 + 2 * beta) / (1 - beta)


def _of_rmsprop(group: _Group) -> float:
    return 2 + 2 * group["momentum"]


def _plain(state: _Group, slope: torch.Tensor, group: _Group) -> torch.Tensor:
    return torch.ones_like(slope)


def _by_adam(state: _Group, slope: torch.Tensor, group: _Group) -> torch.Tensor:
    square = slope.square()
    kept = state.get("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
    if kept is not None:
        square = kept / (1 - float(group["betas"][1]) ** max(float(state["step"]), 1.0))
    return 1 / (square.sqrt() + group["eps"])


def _by_rmsprop(state: _Group, slope: torch.Tensor, group: _Group) -> torch.Tensor:
    square = (1 - group["alpha"]) * slope.square()
    if "square_avg" in state:
        square = state["square_avg"]
        if group["centered"]:
            square = square - state["grad_avg"].square()
    return 1 / (square.clamp(min=0).sqrt() + group["eps"])


_Kind = tuple[Callable[[_Group], float], Callable[[_Group, torch.Tensor, _Group], torch.Tensor]]
_KINDS: dict[type[torch.optim.Optimizer], _Kind] = {
    torch.optim.SGD: (_of_sgd, _plain),
    torch.optim.Adam: (_of_adam, _by_adam),
    torch.optim.AdamW: (_of_adam, _by_adam),
    torch.optim.RMSprop: (_of_rmsprop, _by_rmsprop),
}
