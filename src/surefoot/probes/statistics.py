"""Statistics of one activation tensor, for instrumented steps only (not the hot path)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from surefoot.kernels import make_pass
from surefoot.kernels.eager import NATIVE_REALS
from surefoot.kernels.pieces import is_distributed
from surefoot.signals.flow import TensorStats
from surefoot.signals.saved import through_hooks

_SAMPLES = 64  # samples compared by `mean_cosine`
_FEATURES = 8192  # features a sample is compared on
_PASS = make_pass(1)


def tensor_stats(tensor: torch.Tensor) -> TensorStats:
    """One pass over a tensor: see TensorStats."""
    row = np.empty((1, 5))  # of its own: two trainings may run in two threads
    _PASS([tensor.detach()], row)
    norm, maxabs, mean, nonfinite, zeros = row[0].tolist()
    return TensorStats(norm, maxabs, mean, int(nonfinite), int(zeros), tensor.numel())


def float_tensors(tree: Any) -> Iterator[torch.Tensor]:
    """The ordinary floating-point tensors inside arguments or outputs of any nesting, in order.

    Sparse, nested, meta and eight-bit ones lack the operations that a measurement needs; those of
    one that lies on several ranks would ask the other ranks.
    """
    if isinstance(tree, torch.Tensor):
        leaves: Any = (tree,)
    else:
        leaves = tree_leaves(tree)
    return (t for t in leaves if isinstance(t, torch.Tensor) and _ordinary(t))


def _ordinary(t: torch.Tensor) -> bool:
    strided = t.layout is torch.strided and not t.is_nested and not t.is_meta
    return strided and t.dtype in NATIVE_REALS and not is_distributed(t)


def mean_cosine(output: torch.Tensor) -> float | None:
    """Mean cosine over pairs of different samples of `output` [B, ...]; None for B < 4.

    1 means that all samples look alike: a collapsed representation. From the identity
    sum_{i != j} u_i.u_j = ||sum_i u_i||^2 - B for unit vectors u. Non-finite samples give None.

    >>> round(mean_cosine(torch.eye(8)), 6) + 0.0
    0.0
    """
    if output.dim() < 2 or output.shape[0] < 4:
        return None
    x = output.detach()[:_SAMPLES].flatten(1)[:, :_FEATURES].double()
    norms = x.norm(dim=1, keepdim=True)
    x = x[(norms[:, 0] > 0) & torch.isfinite(norms[:, 0])]
    b = x.shape[0]
    if b < 4:
        return None
    x = x / x.norm(dim=1, keepdim=True)
    return float((x.sum(0).square().sum() - b) / (b * (b - 1)))


def frozen_share(name: str, output: torch.Tensor) -> float | None:
    """Share of units whose slope is under 5 % of the largest on every sample of the batch.

    A unit is a feature [B, F], a channel [B, C, ...spatial], or a feature of [B, T, F]. Known for
    relu, tanh and sigmoid; None for other activations and for fewer than 8 samples.
    """
    y = output.detach()
    if y.dim() < 2 or y.shape[0] < 8:
        return None
    if name == "relu":
        asleep = y == 0
    elif name == "tanh":
        asleep = 1 - y.square() < 0.05
    elif name == "sigmoid":
        asleep = y * (1 - y) < 0.0125
    else:
        return None
    unit = 1 if y.dim() != 3 else 2
    axes = [d for d in range(y.dim()) if d != unit]
    return float(asleep.all(dim=axes[0]).float().mean()) if len(axes) == 1 else _all(asleep, axes)


def one_hot_share(node: Any) -> float | None:
    """Share of the rows of a softmax, by its autograd node, that are one-hot on every sample.

    There its largest slope p (1 - p) is under 5 % of the 1/4 that it can be. None where the graph
    keeps no result [B, ..., N] of at least 8 samples, or a user's hook would be called to fetch it.
    """
    if through_hooks(getattr(node, "_raw_saved_result", None)):
        return None
    try:
        p = node._saved_result.detach()
    except (AttributeError, RuntimeError):
        return None
    if p.dim() < 3 or p.shape[0] < 8 or not p.shape[-1]:
        return None
    top = p.amax(-1)
    return float((top * (1 - top) < 0.0125).all(dim=0).float().mean())


def spread(x: torch.Tensor) -> float | None:
    """Rms deviation of `x` [B, ...] from its mean over the batch, as a share of its rms.

    None for fewer than 8 samples, and where there is nothing but zeros.

    >>> spread(torch.tensor([[3.0], [5.0]] * 4))  # 4 +- 1 over the root of 17
    0.24253562503633297
    """
    if x.dim() < 2 or x.shape[0] < 8:
        return None
    y = x.detach().flatten(1)[:, :_FEATURES].double()
    rms = float(y.square().mean().sqrt())
    return float((y - y.mean(0)).square().mean().sqrt()) / rms if 0 < rms < math.inf else None


def _all(asleep: torch.Tensor, axes: list[int]) -> float:
    for axis in sorted(axes, reverse=True):
        asleep = asleep.all(dim=axis)
    return float(asleep.float().mean())


_CANDIDATES = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "selu": torch.nn.functional.selu,
    "softplus": torch.nn.functional.softplus,
    "sin": torch.sin,
    "square": torch.square,
}


def recognise_activation(before: torch.Tensor, after: torch.Tensor) -> str | None:
    """The name of the elementwise function that made `after` from `before`, None if unknown.

    Both are the same few hundred elements, flattened. Values all zero tell nothing. Under autocast
    the two may have different dtypes: the coarser one sets what counts as equal.
    """
    if before.dtype != after.dtype:
        coarse = max(torch.finfo(t.dtype).eps for t in (before, after))
        return _recognised(before.float(), after.float(), 4 * coarse)
    return _recognised(before, after, 1e-4)


def _recognised(before: torch.Tensor, after: torch.Tensor, tolerance: float) -> str | None:
    if before.shape != after.shape or not before.numel() or not bool((before != 0).any()):
        return None
    if torch.equal(before, after):
        return None
    for name, function in _CANDIDATES.items():
        if torch.allclose(function(before), after, rtol=tolerance, atol=tolerance / 100):
            return name
    return None
