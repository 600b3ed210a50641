"""A rehearsal: what the first updates will do to the loss, tried on copies before training.

The optimizer is copied together with what it holds, so that its own rule (momentum, Adam's first
long steps, weight decay) makes the updates, and neither the optimizer nor the parameters of the
user's model are touched.

The curvature along an update u is read from the gradients at both of its ends. For a quadratic
loss and gradient descent it is exactly `lr lambda / 2`; above one the loss does not fall along u.

Source: Cohen et al. 2021 (sharpness against 2 / lr, and why that alone is no alarm: networks that
train well begin above it); the trust ratio is the usual one of trust-region methods.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

_SHARE = 0.1  # of the first update, at which the loss is read once more


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a few updates on one and the same batch did.

    losses: before the first update and after each one; update: median over the weight matrices of
    ||u|| / ||w|| for the first update; curvature: u'Hu / (-2 g'u) along it; near: the share of the
    promised decrease -s g'u that a tenth of the update (s = 0.1) brings, 1 where the loss is linear
    and negative where it rises; whole: the same for the whole update. NaN where the update is zero
    or the loss is not finite.
    """

    losses: tuple[float, ...]
    update: float
    curvature: float
    near: float
    whole: float


def copied(
    optimizer: torch.optim.Optimizer, stand_ins: dict[int, torch.Tensor]
) -> torch.optim.Optimizer:
    """A copy of the optimizer with its state, which acts on `stand_ins` (by id of the original)."""
    twin = copy.deepcopy(optimizer, dict(stand_ins))
    # A scheduler replaces `step` by a function that is bound to the original.
    twin.__dict__.pop("step", None)
    return twin


def rehearse(
    evaluate: Callable[[], torch.Tensor],
    step: Callable[[torch.Tensor], None],
    parameters: Sequence[torch.Tensor],
    updates: int = 3,
) -> Rehearsal:
    """Take `updates` steps and see what becomes of the loss.

    evaluate: the loss [] on the batch at the parameters' present values, always with the same
    random numbers; step: takes that loss backward (leaving `.grad`) and updates `parameters` in
    place. Costs `updates` forward-backward passes and two forward passes more.

    >>> w = torch.ones(2, requires_grad=True)
    >>> sgd = torch.optim.SGD([w], lr=0.3)
    >>> def step(loss):
    ...     sgd.zero_grad()
    ...     loss.backward()
    ...     sgd.step()
    >>> seen = rehearse(lambda: 5 * w.square().sum(), step, [w])
    >>> round(seen.curvature, 4), seen.losses[1] > seen.losses[0]  # lr lambda / 2 = 0.3 * 10 / 2
    (1.5, True)
    """
    losses: list[float] = []
    first: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
    near = whole = curvature = ratio = math.nan
    promised = 0.0
    for k in range(updates):
        loss = evaluate()
        losses.append(float(loss.detach()))
        before = [p.detach().clone() for p in parameters] if k == 0 else []
        step(loss)
        if not math.isfinite(losses[-1]):  # nothing after it would say more
            return Rehearsal(tuple(losses), ratio, curvature, near, whole)
        gradients = [_dense(p.grad) for p in parameters] if k < 2 else []
        if k == 0:
            moved = [p.detach() - b for p, b in zip(parameters, before, strict=True)]
            ratio = _ratio(moved, before)
            promised = -_dot(moved, gradients)
            first = moved, gradients
            if promised > 0:
                near = _share_kept(evaluate, parameters, before, moved, losses[0], promised)
        elif k == 1 and first is not None and promised > 0:
            along, there = first[0], _dot(first[0], gradients)
            curvature = (there - _dot(along, first[1])) / (2 * promised)
            whole = (losses[0] - losses[1]) / promised
            first = None
    with torch.no_grad():
        losses.append(float(evaluate()))
    return Rehearsal(tuple(losses), ratio, curvature, near, whole)


def _share_kept(
    evaluate: Callable[[], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    before: list[torch.Tensor],
    moved: list[torch.Tensor],
    loss: float,
    promised: float,
) -> float:
    """The share of its promised decrease that the beginning of an update brings."""
    after = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, b, u in zip(parameters, before, moved, strict=True):
            p.copy_(b + _SHARE * u)
        there = float(evaluate())
        for p, a in zip(parameters, after, strict=True):
            p.copy_(a)
    return (loss - there) / (_SHARE * promised)


def _dense(gradient: torch.Tensor | None) -> torch.Tensor:
    if gradient is None:
        return torch.zeros(())
    gradient = gradient.detach()
    return (gradient.to_dense() if gradient.is_sparse else gradient).clone()


def _dot(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The inner product of two lists of tensors, in double."""
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def _ratio(moved: list[torch.Tensor], before: list[torch.Tensor]) -> float:
    """Median over the weight matrices of how far they move, relative to their norm."""
    ratios = [
        float(u.double().norm() / w.double().norm())
        for u, w in zip(moved, before, strict=True)
        if w.dim() >= 2 and bool(w.any())
    ]
    return float(torch.tensor(ratios, dtype=torch.float64).median()) if ratios else math.nan
