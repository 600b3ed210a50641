"""How low a loss can get at all, given the operation that the model ends in.

A tanh keeps every output within -1 and 1, whatever the weights are. Where the targets lie outside,
or the loss wants scores without bounds, a part of the loss is out of reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

_INF = math.inf
# The outputs that an operation can give.
_RANGES: dict[str, tuple[float, float]] = {
    "TanhBackward0": (-1.0, 1.0),
    "SigmoidBackward0": (0.0, 1.0),
    "SoftmaxBackward0": (0.0, 1.0),
    "HardsigmoidBackward0": (0.0, 1.0),
    "ReluBackward0": (0.0, _INF),
    "SoftplusBackward0": (0.0, _INF),
    "LogSigmoidBackward0": (-_INF, 0.0),
}


def bounds_of(operation: str) -> tuple[float, float] | None:
    """The least and the largest output of an operation, by its autograd node; None without bounds.

    >>> bounds_of("TanhBackward0"), bounds_of("AddmmBackward0")
    ((-1.0, 1.0), None)
    """
    return _RANGES.get(operation)


# What only rearranges or copies, between the model's last operation and the loss.
_PASSIVE = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute",
    "Clone", "Expand", "ToCopy", "AsStrided", "Select", "Slice", "Gather", "Index",
)  # fmt: skip
# The loss's own operations, which stand before those of the model.
_OWN = {
    "cross_entropy": ("NllLossBackward0", "NllLoss2DBackward0", "LogSoftmaxBackward0"),
    "bce": ("BinaryCrossEntropyWithLogitsBackward0",),
    "mse": ("MseLossBackward0",),
}


# What applies a softmax or a sigmoid, and what has the bounds of one already.
TAKES_SCORES = ("LogSoftmaxBackward0", "BinaryCrossEntropyWithLogitsBackward0")
_SQUASHED = ("SoftmaxBackward0", "SigmoidBackward0")
# What takes logarithms of probabilities, and has no least value for anything else.
_TAKES_LOGARITHMS = ("NllLossBackward0", "NllLoss2DBackward0")
_AFFINE = ("Addmm", "Mm", "Linear", "Convolution", "Baddbmm", "Bmm")


def takes_no_logarithms(node: Any) -> str | None:
    """What a negative log-likelihood is given in place of logarithms, None if it is given them.

    >>> x, y = torch.zeros(2, 3, requires_grad=True) * 1, torch.tensor([0, 1])
    >>> takes_no_logarithms(F.nll_loss(x.softmax(1), y).grad_fn)
    'SoftmaxBackward0'
    >>> takes_no_logarithms(F.nll_loss(x.log_softmax(1), y).grad_fn) is None
    True
    """
    if node.name().rpartition("::")[2] not in _TAKES_LOGARITHMS:
        return None
    name = _below(node)
    return name if name in _SQUASHED or name.startswith(_AFFINE) else None


def bounded_below(node: Any) -> str | None:
    """The name of a softmax or sigmoid whose result an operation of TAKES_SCORES takes, or None.

    >>> x = torch.zeros(2, 3, requires_grad=True)
    >>> bounded_below(x.softmax(1).log_softmax(1).grad_fn), bounded_below(x.log_softmax(1).grad_fn)
    ('SoftmaxBackward0', None)
    """
    name = _below(node)
    return name if name in _SQUASHED else None


def _below(node: Any) -> str:
    """The first operation under a node that does more than rearrange; empty if none is near."""
    for _ in range(8):
        node = next((n for n, _ in node.next_functions if n is not None), None)
        if node is None:
            return ""
        name = node.name().rpartition("::")[2]
        if name.partition("Backward")[0] not in _PASSIVE:
            return name
    return ""


def operation_of(node: Any) -> str:
    """The operation that made an output, by its autograd node, behind whatever rearranged it."""
    name = node.name().rpartition("::")[2]
    return name if name.partition("Backward")[0] not in _PASSIVE else _below(node)


def last_operation(kind: str, operations: Sequence[str]) -> str | None:
    """The operation whose result the loss function takes, None where that cannot be told.

    operations: autograd nodes from the loss down (`signals.loss.Anatomy`).

    >>> last_operation("mse", ["MseLossBackward0", "ViewBackward0", "TanhBackward0"])
    'TanhBackward0'
    """
    own = _OWN.get(kind, ())
    inner = max((operations.index(o) for o in own if o in operations), default=None)
    if inner is None or (kind == "cross_entropy" and operations[inner] not in own[-1:]):
        return None
    below = (o for o in operations[inner + 1 :] if o.partition("Backward")[0] not in _PASSIVE)
    return next(below, None)


def out_of_reach(
    kind: str, operations: Sequence[str], target: torch.Tensor, classes: int
) -> float | None:
    """The mean loss below which no output of the model's last operation can bring these targets.

    target: those that count, [...]; classes: number of scores of a cross-entropy. None where the
    last operation sets no bound.

    >>> out_of_reach("mse", ["MseLossBackward0", "TanhBackward0"], torch.tensor([3.0, 0.5]), 0)
    2.0
    """
    low, high = _RANGES.get(last_operation(kind, operations) or "", (-_INF, _INF))
    if (low, high) == (-_INF, _INF) or not target.numel():
        return None
    if kind == "mse":
        return float((target.double() - target.double().clamp(low, high)).square().mean())
    if kind == "bce":
        p = target.double().mean()
        return float(p * _softplus(-high) + (1 - p) * _softplus(low))
    return math.log1p((classes - 1) * math.exp(low - high))


def _softplus(x: float) -> float:
    return float(F.softplus(torch.tensor(x, dtype=torch.float64)))
