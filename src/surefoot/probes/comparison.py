"""Whether gradients that were computed again are the step's own, bit for bit.

Between backward and the optimizer all of them may have been multiplied by one number: GradScaler
divides its scale out, and clipping by the norm shortens them. That number is found, and then they
must be equal bit for bit again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

Pair = tuple[torch.Tensor, torch.Tensor]
_TRIED = 8  # numbers, of those that the rounding leaves


def common_factor(found: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> float | None:
    """The number c >= 0 for which `own` is c * `found`, bit for bit; None if there is none.

    NaN equals NaN. c is 1 wherever that will do.

    >>> g = torch.tensor([0.3, -7.0])
    >>> common_factor([g], [g * 0.1]), common_factor([g], [g + 1])
    (0.10000000149011612, None)
    """
    pairs = []
    for f, o in zip(found, own, strict=True):
        if f.shape != o.shape or f.dtype != o.dtype or f.is_sparse != o.is_sparse:
            return None
        pairs.append((f, o))
    try:
        pairs = [_dense(pair) for pair in pairs]
    except ValueError:
        return None
    return next((c for c in _candidates(pairs) if all(_same(f * c, o) for f, o in pairs)), None)


def _dense(pair: Pair) -> Pair:
    """Of two sparse gradients the values, if they lie at the same places."""
    f, o = pair
    if not f.is_sparse:
        return f.detach(), o.detach()
    f, o = f.detach().coalesce(), o.detach().coalesce()
    if not torch.equal(f.indices(), o.indices()):
        raise ValueError("different places")
    return f.values(), o.values()


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _candidates(pairs: Sequence[Pair]) -> Iterator[float]:
    yield 1.0
    low, high = 0.0, math.inf
    for f, o in pairs:
        if not o.is_floating_point():
            return
        x, y = f.double().flatten(), o.double().flatten()
        both = torch.isfinite(x) & torch.isfinite(y) & (x != 0) & (y != 0)
        x, y = x[both], y[both]
        if bool((x.sign() != y.sign()).any()):
            return
        if not x.numel():
            continue
        # y was rounded: what it came from lies within half a unit of its last place.
        half = torch.ldexp(torch.full_like(y, torch.finfo(o.dtype).eps / 4), torch.frexp(y)[1])
        x, y = x.abs(), y.abs()
        low = max(low, float(((y - half) / x).max()))
        high = min(high, float(((y + half) / x).min()))
    if math.isinf(high):
        yield 0.0  # nothing but zeros is left, as after clipping by an infinite norm
    elif low <= high:
        yield from _between(low, high)


def _between(low: float, high: float) -> Iterator[float]:
    """The numbers that a factor may well be: a power of two, single ones in float32, the middle."""
    power = 2.0 ** math.ceil(math.log2(max(low, 5e-324)))
    if power <= high:
        yield power
    step = np.float32(low)
    for _ in range(_TRIED):
        if low <= step <= high:
            yield float(step)
        step = np.nextafter(step, np.float32(np.inf))
    yield (low + high) / 2
