"""How well an optimizer's running mean of squared gradients fits the gradient of the step.

Adam and its kin divide by the square root of that mean. Where it lags behind a gradient that has
grown, the update is too long by the ratio; where the gradient has shrunk, too short; where eps is
larger than the root, the optimizer no longer rescales at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from surefoot.kernels.layout import PLAIN_TYPES, flatten
from surefoot.signals.quantity import Axis, Quantity

SECOND_MOMENT = Quantity(
    name="second_moment",
    axis=Axis.PARAMETER,
    statistics=("rms", "eps_share"),
    unit="1; a share",
    formula="RMS_t = sqrt(mean(g^2 / max(v, eps^2))), v the optimizer's own bias-corrected running "
    "mean of g^2, this step's included (AMSGrad: the largest so far); share of the elements in use "
    "with sqrt(v) < eps",
    cost="sampled steps: of each weight matrix at most 512 evenly spaced elements of the gradient "
    "and of the state; relative error about 1/sqrt(2 * 512) = 3 %",
    source="Wortsman et al. 2023, section 3.4 (RMS_t); of stationary gradients it is 1",
    buckets=256,
)
# Where the running mean is kept, for each kind of optimizer that has one.
_STATE = ("exp_avg_sq", "square_avg")
_MAXIMUM = "max_exp_avg_sq"  # of all of them so far, which AMSGrad divides by
_ELEMENTS = 512


def second_moments(
    optimizer: Any,
    parameters: Sequence[torch.Tensor],
    out: np.ndarray,
    used: np.ndarray | None = None,
) -> np.ndarray | None:
    """Write (RMS_t, share below eps) into `out` [P, 2], before the optimizer acts.

    And into `used` [P] the share of the elements in use, whose mean is not zero. NaN for a vector,
    and without a gradient or a state. None if there is nothing to measure.

    >>> p = torch.nn.Parameter(torch.zeros(2, 2))
    >>> adam = torch.optim.Adam([p])
    >>> p.grad = torch.ones(2, 2)
    >>> adam.step()
    >>> round(float(second_moments(adam, [p], np.empty((1, 2)))[0, 0]), 6)
    1.0
    """
    out.fill(np.nan)
    if used is not None:
        used.fill(np.nan)
    places, groups = _measurable(optimizer, parameters)
    if not places:
        return None
    states = [optimizer.state[parameters[i]] for i in places]
    gradients, sizes = _gather([parameters[i].grad for i in places])
    means, others = _gather([s[_kept(s)] for s in states])
    if sizes != others:
        return None
    scale = getattr(optimizer, "grad_scale", None)
    squares = (gradients / (1.0 if scale is None else float(scale))) ** 2
    terms = [_terms(g, s) for g, s in zip(groups, states, strict=True)]
    full = [k for k, size in enumerate(sizes) if size]  # a matrix may be empty
    counts = np.array(sizes)[full]
    if not full:
        return None
    decay, correction, least = np.repeat(np.array(terms)[full], counts, axis=0).T
    now = decay * means + (1 - decay) * squares
    now = _at_most_seen(now, states, sizes) / correction
    floor = np.maximum(now, least)
    ratio = np.divide(squares, floor, out=np.zeros_like(squares), where=floor > 0)
    starts, alive = np.cumsum(counts) - counts, now > 0
    rms = np.sqrt(np.add.reduceat(ratio, starts) / counts)
    below = np.add.reduceat((alive & (now < least)).astype(float), starts)
    seen = np.add.reduceat(alive.astype(float), starts)
    share = np.divide(below, seen, out=np.full(len(full), np.nan), where=seen > 0)
    out[np.array(places)[full]] = np.stack([rms, share], axis=1)
    if used is not None:
        used[np.array(places)[full]] = seen / counts
    return out


def _measurable(
    optimizer: Any, parameters: Sequence[torch.Tensor]
) -> tuple[list[int], list[dict[str, Any]]]:
    """(places, their groups) of the parameters with a second moment that can be read."""
    places, groups = [], []
    place = 0
    for group in getattr(optimizer, "param_groups", ()):
        for p in group["params"]:
            if place < len(parameters) and p is parameters[place] and _usable(optimizer, group, p):
                places.append(place)
                groups.append(group)
            place += 1
    return places, groups


def _at_most_seen(
    now: np.ndarray, states: Sequence[dict[str, Any]], sizes: Sequence[int]
) -> np.ndarray:
    """AMSGrad divides by the largest of its means so far."""
    kept = [_MAXIMUM in s for s in states]
    if not any(kept):
        return now
    largest, _ = _gather([s.get(_MAXIMUM, s[_kept(s)]) for s in states])
    return np.where(np.repeat(kept, sizes), np.maximum(now, largest), now)


def _kept(state: dict[str, Any]) -> str:
    return next(k for k in _STATE if k in state)


def _terms(group: dict[str, Any], state: dict[str, Any]) -> tuple[float, float, float]:
    """(decay, bias correction, smallest mean that is divided by) of one parameter."""
    least = float(group.get("eps", 0.0)) ** 2
    if "betas" not in group:
        return float(group["alpha"]), 1.0, least
    decay = float(group["betas"][1])
    return decay, 1 - decay ** (float(state.get("step", 1)) + 1), least


def _gather(tensors: Sequence[Any]) -> tuple[np.ndarray, list[int]]:
    """At most 512 evenly spaced elements of each tensor side by side, and how many of each."""
    with torch.no_grad():
        parts = []
        for tensor in tensors:
            flat = flatten(tensor)[0]
            flat = torch.empty(0) if flat is None else flat
            # An odd stride does not fall into step with a power-of-two row length.
            parts.append(flat[:: (flat.numel() // _ELEMENTS) | 1] if flat.numel() else flat)
        if len({p.device for p in parts}) > 1:
            parts = [p.cpu() for p in parts]
        return torch.cat(parts).double().cpu().numpy(), [p.numel() for p in parts]


def _usable(optimizer: Any, group: dict[str, Any], p: torch.Tensor) -> bool:
    if not ("betas" in group or "alpha" in group):  # its running mean is made in another way
        return False
    if p.dim() < 2 or p.grad is None or p.is_complex():
        return False
    state = optimizer.state.get(p, {})
    mean = next((state[k] for k in _STATE if k in state), None)
    return _plain(p.grad) and _plain(mean) and getattr(mean, "shape", None) == p.shape


def _plain(tensor: Any) -> bool:
    """Whether its elements can be read: not a state in eight bits, which is a class of its own."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
        return False
    return type(tensor) in PLAIN_TYPES or hasattr(tensor, "to_local")
