"""The operations that losses are made of: how each is computed again from what it has saved.

A node of the autograd graph is known by its name. Those that are not listed here make a loss
unreadable, which is said and does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Saved = Mapping[str, Any]
Inputs = list[Any]  # tensors, None for a constant


@dataclass(slots=True, eq=False)
class Operation:
    """One operation; `inputs` holds operations and leaves, None for a constant.

    total: its value as its consumer has saved it, where it adds a constant that nobody saved.
    """

    name: str
    saved: dict[str, Any]
    inputs: list[Any]
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    total: torch.Tensor | None = None
    constant: torch.Tensor | None = None


_TENSORS = ("target", "self", "other", "mat2", "mask", "index", "indices", "x1", "x2")
Compute = Callable[[Inputs, Saved, Operation], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Known:
    """How one kind of node is computed again. saved: what to read of it; known: for each input the
    saved value that equals it; shaped: whether its output's shape and dtype are needed."""

    compute: Compute
    saved: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    shaped: bool = False
    attributes: tuple[tuple[str, str], ...] = ()  # (name, the node's attribute), made from `saved`
    tensors: tuple[str, ...] = ()  # attributes that tell whether a hook would be called

    def __post_init__(self) -> None:
        """Spell the attributes once: a node is read at every step."""
        spelt = {"number": "other", "place": "index"}  # plain numbers, where others save tensors
        attributes = tuple((name, f"_saved_{spelt.get(name, name)}") for name in self.saved)
        # Of what one node has saved all goes through the same hooks; a product may save one side.
        tensors = [f"_raw_saved_{name}" for name in self.saved if name in _TENSORS]
        object.__setattr__(self, "attributes", attributes)
        object.__setattr__(
            self,
            "tensors",
            tuple(tensors if {"other", "mat2", "x2"} & {*self.saved} else tensors[:1]),
        )


_REDUCTIONS = ("none", "mean", "sum")


def _sum_of(sign: float) -> Callable[[Inputs, Saved], torch.Tensor]:
    def add(x: Inputs, s: Saved) -> torch.Tensor:
        factors = (1.0, sign * s["alpha"])
        parts = [t if f == 1 else f * t for t, f in zip(x, factors, strict=True) if t is not None]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    return add


SUMS = {
    "AddBackward0": _sum_of(1.0),
    "SubBackward0": _sum_of(-1.0),
    "RsubBackward1": lambda x, s: -s["alpha"] * x[0],  # a number less a tensor
}


def _either(x: Inputs, s: Saved) -> tuple[Any, Any]:
    a = x[0] if x[0] is not None else s["self"]
    b = x[1] if len(x) > 1 and x[1] is not None else s["other"]
    return a, b


def _product(x: Inputs, s: Saved, _: Operation) -> torch.Tensor:
    a = x[0] if x[0] is not None else s["self"]
    return a @ (x[1] if len(x) > 1 and x[1] is not None else s["mat2"])


def _distances(x: Inputs, s: Saved, _: Operation) -> torch.Tensor:
    a = x[0] if x[0] is not None else s["x1"]
    return torch.cdist(a, x[1] if len(x) > 1 and x[1] is not None else s["x2"], s.get("p", 2.0))


def _spread(function: Callable[..., torch.Tensor]) -> Known:
    def compute(x: Inputs, s: Saved, _: Operation) -> torch.Tensor:
        return function(x[0], s["dim"], correction=s["correction"], keepdim=s["keepdim"])

    return Known(compute, ("dim", "correction", "keepdim", "self"), ("self",))


def _norm(x: Inputs, s: Saved, _: Operation) -> torch.Tensor:
    return torch.linalg.vector_norm(x[0], s["ord"], s["dim"] or None, s["keepdim"])


def _nll(x: Inputs, s: Saved, _: Operation) -> torch.Tensor:
    return F.nll_loss(
        x[0],
        s["target"],
        s["weight"],
        ignore_index=s["ignore_index"],
        reduction=_REDUCTIONS[s["reduction"]],
    )


def _pair(function: Callable[..., torch.Tensor], *more: str) -> Compute:
    """A loss function of a prediction and a target, either of which may carry a gradient."""

    def compute(x: Inputs, s: Saved, _: Operation) -> torch.Tensor:
        a = x[0] if x[0] is not None else s["self"]
        b = x[1] if len(x) > 1 and x[1] is not None else s["target"]
        return function(a, b, reduction=_REDUCTIONS[s["reduction"]], **{m: s[m] for m in more})

    return compute


def _over(function: Callable[..., torch.Tensor]) -> Compute:
    return lambda x, s, _: function(x[0], s["dim"], keepdim=s["keepdim"])


def _plain(function: Callable[[Any], torch.Tensor]) -> Known:
    return Known(lambda x, s, _: function(x[0]))


def _cast(x: Inputs, _: Saved, op: Operation) -> torch.Tensor:
    return x[0] if x[0].dtype is torch.float64 else x[0].to(op.dtype)


def _reshape(x: Inputs, _: Saved, op: Operation) -> torch.Tensor:
    return x[0].reshape(op.shape)


_NLL = Known(_nll, ("target", "weight", "ignore_index", "reduction"))
_TWO = ("self", "target", "reduction")
_SHAPE = Known(_reshape, shaped=True)
_SAME = _plain(lambda x: x)

OPERATIONS: dict[str, Known] = {
    "NllLossBackward0": _NLL,
    "NllLoss2DBackward0": _NLL,
    "MseLossBackward0": Known(_pair(F.mse_loss), _TWO, ("self", "target")),
    "SmoothL1LossBackward0": Known(
        _pair(F.smooth_l1_loss, "beta"), (*_TWO, "beta"), ("self", "target")
    ),
    "HuberLossBackward0": Known(_pair(F.huber_loss, "delta"), (*_TWO, "delta"), ("self", "target")),
    "BinaryCrossEntropyBackward0": Known(
        _pair(F.binary_cross_entropy, "weight"), (*_TWO, "weight"), ("self",)
    ),
    "BinaryCrossEntropyWithLogitsBackward0": Known(
        _pair(F.binary_cross_entropy_with_logits, "weight", "pos_weight"),
        (*_TWO, "weight", "pos_weight"),
        ("self",),
    ),
    "LogSoftmaxBackward0": Known(lambda x, s, _: torch.log_softmax(x[0], s["dim"]), ("dim",)),
    "SoftmaxBackward0": Known(lambda x, s, _: torch.softmax(x[0], s["dim"]), ("dim",)),
    "SoftplusBackward0": Known(
        lambda x, s, _: F.softplus(x[0], s["beta"], s["threshold"]),
        ("beta", "threshold", "self"),
        ("self",),
    ),
    "LogSigmoidBackward0": _plain(F.logsigmoid),
    "SigmoidBackward0": _plain(torch.sigmoid),
    "TanhBackward0": _plain(torch.tanh),
    "ReluBackward0": _plain(torch.relu),
    "ExpBackward0": _plain(torch.exp),
    "LogBackward0": Known(lambda x, *_: torch.log(x[0]), ("self",), ("self",)),
    "SqrtBackward0": _plain(torch.sqrt),
    "AbsBackward0": Known(lambda x, *_: torch.abs(x[0]), ("self",), ("self",)),
    "NegBackward0": _plain(torch.neg),
    "MaximumBackward0": Known(
        lambda x, s, _: torch.maximum(*_either(x, s)), ("self", "other"), ("self", "other")
    ),
    "MinimumBackward0": Known(
        lambda x, s, _: torch.minimum(*_either(x, s)), ("self", "other"), ("self", "other")
    ),
    "MmBackward0": Known(_product, ("self", "mat2"), ("self", "mat2")),
    "LogsumexpBackward0": Known(_over(torch.logsumexp), ("dim", "keepdim")),
    "LinalgVectorNormBackward0": Known(_norm, ("self", "ord", "dim", "keepdim"), ("self",)),
    "PowBackward0": Known(
        lambda x, s, _: x[0] ** s["exponent"],
        ("self", "exponent"),
        ("self",),
    ),
    "BmmBackward0": Known(_product, ("self", "mat2"), ("self", "mat2")),
    "CdistBackward0": Known(_distances, ("x1", "x2", "p"), ("x1", "x2")),
    "LogcumsumexpBackward0": Known(lambda x, s, _: torch.logcumsumexp(x[0], s["dim"]), ("dim",)),
    "CumsumBackward0": Known(lambda x, s, _: torch.cumsum(x[0], s["dim"]), ("dim",)),
    "CatBackward0": Known(lambda x, s, _: torch.cat(x, s["dim"]), ("dim",)),
    "StackBackward0": Known(lambda x, s, _: torch.stack(x, s["dim"]), ("dim",)),
    "LgammaBackward0": Known(lambda x, *_: torch.lgamma(x[0]), ("self",), ("self",)),
    "ErfBackward0": Known(lambda x, *_: torch.erf(x[0]), ("self",), ("self",)),
    "Log1PBackward0": Known(lambda x, *_: torch.log1p(x[0]), ("self",), ("self",)),
    "VarBackward0": _spread(torch.var),
    "StdBackward0": _spread(torch.std),
    "MaxBackward0": Known(
        lambda x, s, _: torch.max(x[0], s["dim"], s["keepdim"]).values, ("dim", "keepdim")
    ),
    "MinBackward0": Known(
        lambda x, s, _: torch.min(x[0], s["dim"], s["keepdim"]).values, ("dim", "keepdim")
    ),
    "MeanBackward0": _plain(torch.mean),
    "SumBackward0": _plain(torch.sum),
    "MeanBackward1": Known(_over(torch.mean), ("dim", "keepdim")),
    "SumBackward1": Known(_over(torch.sum), ("dim", "keepdim")),
    "MulBackward0": Known(
        lambda x, s, _: torch.mul(*_either(x, s)), ("self", "other"), ("self", "other")
    ),
    "DivBackward0": Known(
        lambda x, s, _: torch.div(*_either(x, s)), ("self", "other"), ("self", "other")
    ),
    "MulBackward1": Known(lambda x, s, _: x[0] * s["number"], ("number",)),
    "DivBackward1": Known(lambda x, s, _: x[0] / s["number"], ("number",)),
    "AddBackward0": Known(lambda *_: torch.empty(0), ("alpha",)),  # see SUMS
    "SubBackward0": Known(lambda *_: torch.empty(0), ("alpha",)),
    "RsubBackward1": Known(lambda *_: torch.empty(0), ("alpha",)),
    "ClampBackward1": Known(
        lambda x, s, _: x[0].clamp(s["min"], s["max"]), ("self", "min", "max"), ("self",)
    ),
    "ClampMinBackward0": Known(
        lambda x, s, _: x[0].clamp_min(s["min"]), ("self", "min"), ("self",)
    ),
    # By what a mask fills is not saved: nought, or the check of the loss's value will tell.
    "MaskedFillBackward0": Known(
        lambda x, s, _: x[0].masked_fill(s["mask"], 0.0),
        ("mask",),
    ),
    "GatherBackward0": Known(
        lambda x, s, _: torch.gather(x[0], s["dim"], s["index"]),
        ("dim", "index"),
    ),
    "IndexBackward0": Known(
        lambda x, s, _: x[0][tuple(slice(None) if i is None else i for i in s["indices"])],
        ("indices",),
    ),
    "SelectBackward0": Known(
        lambda x, s, _: x[0].select(s["dim"], s["place"]),
        ("dim", "place"),
    ),
    "TransposeBackward0": Known(
        lambda x, s, _: x[0].transpose(s["dim0"], s["dim1"]),
        ("dim0", "dim1"),
    ),
    "PermuteBackward0": Known(
        lambda x, s, _: x[0].permute(s["dims"]),
        ("dims",),
    ),
    "SliceBackward0": Known(
        lambda x, s, _: _slice(x[0], s["dim"], s["start"], s["end"], s["step"]),
        ("dim", "start", "end", "step"),
    ),
    "ExpandBackward0": Known(lambda x, _, op: x[0].expand(op.shape), shaped=True),
    "TBackward0": _plain(torch.t),
    "ToCopyBackward0": Known(_cast, shaped=True),
    "CloneBackward0": _SAME,
    "AliasBackward0": _SAME,
    "ViewBackward0": _SHAPE,
    "UnsafeViewBackward0": _SHAPE,
    "ReshapeAliasBackward0": _SHAPE,
    "UnsqueezeBackward0": _SHAPE,
    "SqueezeBackward0": _SHAPE,
    "SqueezeBackward1": _SHAPE,
    "SqueezeBackward2": _SHAPE,
}


def _slice(x: Any, dim: int, start: int | None, end: int | None, step: int) -> torch.Tensor:
    index = [slice(None)] * x.dim()
    index[dim] = slice(start, None if end is not None and end >= 2**62 else end, step)
    return x[tuple(index)]
