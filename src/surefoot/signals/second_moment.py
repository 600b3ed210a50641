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

from surefoot.signals.quantity import Axis, Quantity
from surefoot.signals.updates import sample_weights

SECOND_MOMENT = Quantity(
    name="second_moment",
    axis=Axis.PARAMETER,
    statistics=("rms", "eps_share"),
    unit="1; a share",
    formula="RMS_t = sqrt(mean(g^2 / max(v, eps^2))), v the optimizer's own bias-corrected running "
    "mean of g^2, this step's included; share of the elements in use with sqrt(v) < eps",
    cost="sampled steps: a gather of at most 16 KiB a tensor from the gradient and from the state",
    source="Wortsman et al. 2023, section 3.4 (RMS_t); of stationary gradients it is 1",
    buckets=256,
)
# Where the running mean is kept, for each kind of optimizer that has one.
_STATE = ("exp_avg_sq", "square_avg")


def second_moments(
    optimizer: Any, parameters: Sequence[torch.Tensor], out: np.ndarray
) -> np.ndarray | None:
    """Write (RMS_t, share below eps) into `out` [P, 2], before the optimizer acts.

    NaN for a parameter without a gradient or a state. None if there is nothing to measure.

    >>> p = torch.nn.Parameter(torch.zeros(4))
    >>> adam = torch.optim.Adam([p])
    >>> p.grad = torch.ones(4)
    >>> adam.step()
    >>> round(float(second_moments(adam, [p], np.empty((1, 2)))[0, 0]), 6)
    1.0
    """
    out.fill(np.nan)
    places, groups = [], []
    place = 0
    for group in getattr(optimizer, "param_groups", ()):
        for p in group["params"]:
            if place < len(parameters) and p is parameters[place] and _usable(optimizer, group, p):
                places.append(place)
                groups.append(group)
            place += 1
    if not places:
        return None
    states = [optimizer.state[parameters[i]] for i in places]
    gradients = [parameters[i].grad for i in places]
    g = sample_weights(gradients)  # type: ignore[arg-type]
    v = sample_weights([next(s[k] for k in _STATE if k in s) for s in states])
    if g.sizes != v.sizes:
        return None
    scale = getattr(optimizer, "grad_scale", None)
    squares = (g.flat.double().numpy() / (1.0 if scale is None else float(scale))) ** 2
    means, end = v.flat.double().numpy(), 0
    for i, group, state, size in zip(places, groups, states, g.sizes, strict=True):
        begin, end = end, end + size
        if size:
            out[i] = _fit(squares[begin:end], means[begin:end], group, state)
    return out


def _usable(optimizer: Any, group: dict[str, Any], p: torch.Tensor) -> bool:
    if not ("betas" in group or "alpha" in group):  # its running mean is made in another way
        return False
    if p.grad is None or p.grad.layout is not torch.strided or p.is_complex():
        return False
    state = optimizer.state.get(p, {})
    return any(isinstance(state.get(k), torch.Tensor) for k in _STATE)


def _fit(
    squares: np.ndarray, means: np.ndarray, group: dict[str, Any], state: dict[str, Any]
) -> tuple[float, float]:
    """(RMS_t, share below eps) of one parameter [N] each."""
    adam = "betas" in group
    decay = float(group["betas"][1] if adam else group["alpha"])
    now = decay * means + (1 - decay) * squares
    if adam:
        now = now / (1 - decay ** (float(state.get("step", 1)) + 1))
    least = float(group.get("eps", 0.0)) ** 2
    used = now > 0
    floor = np.maximum(now, least)
    ratio = np.divide(squares, floor, out=np.zeros_like(squares), where=floor > 0)
    if not used.any():
        return float(np.sqrt(ratio.mean())), np.nan
    return float(np.sqrt(ratio.mean())), float((now[used] < least).mean())
