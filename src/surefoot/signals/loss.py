"""The loss: its value at every step and, on instrumented steps, its anatomy.

The anatomy is read from the autograd graph between the number on which `backward` is called and the
model's outputs, while the graph is alive: which loss function it is, by which constants it is
multiplied, and what a predictor that ignores its input would reach on the same targets. It needs no
knowledge of the training script and changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from surefoot.signals.quantity import Axis, Quantity, Step
from surefoot.signals.reach import (
    TAKES_SCORES,
    bounded_below,
    out_of_reach,
    takes_no_logarithms,
)


def _value(step: Step, out: np.ndarray) -> None:
    """[loss]: NaN stands for "not seen", so a loss that is itself NaN is kept as infinite."""
    loss = step.loss
    out[0] = math.nan if loss is None else loss if math.isfinite(loss) else math.inf


LOSS = Quantity(
    name="loss",
    axis=Axis.STEP,
    statistics=("loss",),
    unit="as the script defines it",
    formula="sum of the values on which backward was called since the last optimizer step",
    cost="one scalar read a backward call",
    source="read where torch.autograd.backward is called; GradScaler's scale divided out",
    buckets=4096,
    measure=_value,
)

# Operations behind which the model begins: the walk from the loss stops there.
_WEIGHTED = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "AccumulateGrad", "Compiled")
# What leaves a sum of losses a sum of losses.
_ADDING = ("AddBackward", "SumBackward0", "ViewBackward", "CloneBackward", "ToCopyBackward")
_LOSSES = {
    "NllLossBackward0": "cross_entropy",
    "NllLoss2DBackward0": "cross_entropy",
    "MseLossBackward0": "mse",
    "BinaryCrossEntropyWithLogitsBackward0": "bce",
    "BinaryCrossEntropyBackward0": "bce",
    "SmoothL1LossBackward0": "huber",
    "HuberLossBackward0": "huber",
}
_MAX_NODES, _MAX_DEPTH = 256, 24


@dataclass(slots=True)
class Anatomy:
    """What could be read of a loss.

    kind: the loss function, "composite" for several, "unknown" for none that is known.
    multiplier: the number that backward is called on, as a multiple of the loss function's mean
    over its targets: constants, element counts of sums, and weights or masks on the elements; of a
    loss that is composite or unknown, that of its largest term, as far as it can be read.
    summed: the elements are added up without being averaged.
    trivial: loss of the best constant prediction on this batch's targets, multiplier included; of a
    composite the sum over its terms; None where the targets cannot be read.
    floor: the loss below which the model's last operation cannot bring it on these targets,
    multiplier included; None where it sets no bound (`signals.reach`).
    target_nonfinite: non-finite targets or weights in this batch.
    operations: names of the autograd nodes from the loss down to the model's last affine map.
    squashed: the operation with bounds that a softmax or sigmoid is applied to once more.
    unnormalised: what a negative log-likelihood takes in place of logarithms.
    """

    value: float
    kind: str = "unknown"
    multiplier: float = 1.0
    summed: bool = False
    trivial: float | None = None
    floor: float | None = None
    target_nonfinite: int = 0
    operations: list[str] = field(default_factory=list)
    squashed: str | None = None
    unnormalised: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as `Flow.loss` keeps it."""
        return asdict(self)


def together(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The anatomy of two losses whose gradients are added up, as in gradient accumulation.

    `earlier` is empty for the first one. Different loss functions make a composite.

    >>> half = {"kind": "mse", "value": 1.0, "multiplier": 0.5, "trivial": 2.0}
    >>> together(half, half)["trivial"], together(half, {**half, "kind": "bce"})["kind"]
    (4.0, 'composite')
    """
    if not earlier:
        return later
    both = {**later}
    for name in ("value", "multiplier", "trivial", "floor", "target_nonfinite"):
        a, b = earlier.get(name), later.get(name)
        both[name] = None if a is None or b is None else a + b
    if earlier.get("kind") != later.get("kind"):
        both["kind"] = "composite"
    both["undefined"] = earlier.get("undefined") or later.get("undefined")
    both["summed"] = bool(earlier.get("summed") or later.get("summed"))
    return both


def anatomy(loss: torch.Tensor) -> Anatomy:
    """Read the loss tensor's graph; call before backward, which frees what is read.

    >>> logits = torch.zeros(4000, 2, requires_grad=True)
    >>> target = torch.tensor([0, 1] * 2000)
    >>> a = anatomy(1e-3 * torch.nn.functional.cross_entropy(logits, target))
    >>> a.kind, round(a.multiplier, 6), round(a.trivial / 1e-3, 3)
    ('cross_entropy', 0.001, 0.693)
    """
    result = Anatomy(float(loss.detach().sum()))
    seen: set[Any] = set()
    heads: list[tuple[Any, torch.Tensor]] = []
    several, sums_only = False, True
    one = torch.ones((), dtype=torch.float64)
    queue: list[tuple[Any, torch.Tensor, bool]] = [(loss.grad_fn, one, False)]
    while queue and len(seen) < _MAX_NODES:
        node, weights, below = queue.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().rpartition("::")[2]
        if name.startswith(_WEIGHTED):
            sums_only = sums_only and below
            continue
        result.operations.append(name)
        if name in TAKES_SCORES:
            result.squashed = result.squashed or bounded_below(node)
        result.unnormalised = result.unnormalised or takes_no_logarithms(node)
        if name in _LOSSES:
            heads.append((node, weights))
            below = True
        if not below and name.startswith(("AddBackward", "SubBackward")):
            several = several or _branches(node) > 1
        factor = None if below else _factor(node, name)
        if not below and factor is None:
            sums_only = sums_only and name.startswith(_ADDING)
        if factor is not None:
            # A weight of zero that is divided by is no such weight: the division is at fault.
            bad = torch.isnan(factor) if name.startswith("Div") else ~torch.isfinite(factor)
            result.target_nonfinite += int(bad.sum())
            weights = _times(weights, factor)
        queue += [(n, weights, below) for n, _ in node.next_functions]
    if heads and not several and len(heads) == 1:
        _read_head(result, *heads[0])
        return result
    result.kind = "composite" if heads else "unknown"
    result.summed, result.multiplier = _outermost(loss.grad_fn)
    if heads and sums_only:
        _read_terms(result, heads)
    return result


def _read_terms(result: Anatomy, heads: list[tuple[Any, torch.Tensor]]) -> None:
    """The trivial loss of a sum of known losses: each term's own constants answer it best."""
    terms = []
    for node, weights in heads:
        term = Anatomy(result.value, operations=result.operations)
        _read_head(term, node, weights)
        result.target_nonfinite += term.target_nonfinite
        terms.append(term.trivial)
    known = [t for t in terms if t is not None]
    result.trivial = sum(known) if len(known) == len(terms) else None


def _outermost(node: Any, depth: int = 0) -> tuple[bool, float]:
    """(whether it is a sum, factor on a mean) of a loss that cannot be read as a whole.

    Constants down to the first mean or sum; of several terms the one with the largest factor.
    """
    if node is None or depth > _MAX_DEPTH:
        return False, 1.0
    name = node.name().rpartition("::")[2]
    inner = [n for n, _ in node.next_functions if n is not None]
    if name.startswith(("AddBackward", "SubBackward")) and inner:
        return max((_outermost(n, depth + 1) for n in inner), key=lambda found: abs(found[1]))
    if name == "SumBackward0":
        terms = _weights_of_terms(inner[0]) if inner else None
        if terms is not None:
            return False, terms
        return True, float(math.prod(node._saved_self_sym_sizes))
    if name in _LOSSES:
        summed = getattr(node, "_saved_reduction", 1) == 2
        return summed, float(node._saved_target.numel()) if summed else 1.0
    if name.startswith("Neg") and inner:
        return _outermost(inner[0], depth + 1)
    factor = _factor(node, name) if name.startswith(("Mul", "Div")) else None
    if factor is None or factor.numel() != 1:
        return False, 1.0
    summed, rest = _outermost(inner[0], depth + 1)
    return summed, float(factor) * rest


def _weights_of_terms(node: Any) -> float | None:
    """The largest weight on losses that are stacked before they are added up, None otherwise."""
    name = node.name().rpartition("::")[2]
    factor = _factor(node, name) if name.startswith("Mul") else None
    inner = [n for n, _ in node.next_functions if n is not None]
    stack = inner[0] if factor is not None and len(inner) == 1 else node
    if not stack.name().rpartition("::")[2].startswith(("Stack", "Cat")):
        return None
    return float(factor.abs().max()) if factor is not None else 1.0


def _branches(node: Any) -> int:
    return sum(n is not None for n, _ in node.next_functions)


def _factor(node: Any, name: str) -> torch.Tensor | None:
    """By what a node multiplies its one differentiable input, flattened; None if by nothing."""
    try:
        if name.startswith("MeanBackward"):
            size, dims = node._saved_self_sym_sizes, getattr(node, "_saved_dim", ())
            # torch saves a negative dimension as an unsigned number
            over = [size[d - 2**64 if d > 2**63 else d] for d in dims] if dims else size
            return torch.tensor([1.0 / max(math.prod(over), 1)], dtype=torch.float64)
        if not name.startswith(("MulBackward", "DivBackward")):
            return None
        if _branches(node) != 1:
            return None
        first = node.next_functions[0][0] is not None
        other = node._saved_other if first else node._saved_self
        if other is None or (name.startswith("Div") and not first):
            return None
        value = other.detach().double().flatten()
        return value.reciprocal() if name.startswith("Div") else value
    except (AttributeError, RuntimeError):  # nothing saved, or the graph was already freed
        return None


def _times(weights: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The product of two weightings, element by element where their sizes agree."""
    factor = torch.where(torch.isfinite(factor), factor, 1.0)
    if 1 in (weights.numel(), factor.numel()) or weights.numel() == factor.numel():
        return weights.flatten() * factor
    return weights.flatten().mean() * factor.mean()


def _read_head(result: Anatomy, node: Any, weights: torch.Tensor) -> None:
    """Fill in kind, multiplier and trivial loss from one loss node with its saved targets."""
    name = node.name()
    result.kind = _LOSSES[name]
    try:
        target, prediction = node._saved_target, node._saved_self
    except RuntimeError:  # the graph was already freed
        return
    target = target.detach()
    if target.is_floating_point():
        result.target_nonfinite += int((~torch.isfinite(target)).sum())
    trivial, used = _trivial(result.kind, node, target, prediction.detach())
    reduction = getattr(node, "_saved_reduction", 1)  # 0 none, 1 mean, 2 sum
    above = result.operations[: result.operations.index(name.rpartition("::")[2])]
    result.summed = reduction == 2 or any(x.startswith("SumBackward") for x in above)
    if reduction == 1:
        result.multiplier = float(weights.sum())
    elif weights.numel() == used.numel():
        result.multiplier = float(weights[used.flatten()].sum())
    else:
        result.multiplier = float(weights.mean() * used.sum())
    if trivial is not None and math.isfinite(trivial):
        result.trivial = trivial * result.multiplier
    classes = prediction.shape[1] if prediction.dim() > 1 else 0
    floor = out_of_reach(result.kind, result.operations, target[used], classes)
    if floor is not None and math.isfinite(floor):
        result.floor = floor * result.multiplier


def _trivial(
    kind: str, node: Any, target: torch.Tensor, prediction: torch.Tensor
) -> tuple[float | None, torch.Tensor]:
    """(mean loss of the best constant prediction, which of the targets count)."""
    used = torch.ones_like(target, dtype=torch.bool)
    if kind == "cross_entropy":
        used = target != node._saved_ignore_index
        target = target[used]
        n = max(target.numel(), 1)
        counts = torch.bincount(target.reshape(-1)).double()
        share = counts[counts > 0] / n
        # Miller & Madow's correction: a small batch shows less entropy than its source has.
        bias = (share.numel() - 1) / (2 * n)
        return float(-(share * share.log()).sum()) + bias, used
    flat = target.reshape(target.shape[0] if target.dim() else 1, -1).double()
    n = flat.shape[0]
    if kind == "mse" and n > 1:
        return float(flat.var(0, unbiased=True).mean()), used
    if kind == "bce":
        p = flat.mean(0)  # all targets alike: nothing is left to be gained, exactly
        return float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean()), used
    return None, used
