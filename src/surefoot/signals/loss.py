"""The loss: its value at every step and, on instrumented steps, its anatomy.

The anatomy is read from the autograd graph between the number on which `backward` is called and
the model's outputs, while the graph is alive: which loss function it is, by which constants it is
multiplied, and what a predictor that ignores its input would reach on the same targets. It needs
no knowledge of the training script and changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from surefoot.signals.quantity import Axis, Quantity

LOSS = Quantity(
    name="loss",
    axis=Axis.STEP,
    statistics=("loss",),
    unit="as the script defines it",
    formula="sum of the values on which backward was called since the last optimizer step",
    cost="one scalar read a backward call",
    source="read where torch.autograd.backward is called; GradScaler's scale divided out",
)

# Operations behind which the model begins: the walk from the loss stops there.
_WEIGHTED = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "AccumulateGrad", "Compiled")
_LOSSES = {
    "NllLossBackward0": "cross_entropy",
    "NllLoss2DBackward0": "cross_entropy",
    "MseLossBackward0": "mse",
    "BinaryCrossEntropyWithLogitsBackward0": "bce",
    "BinaryCrossEntropyBackward0": "bce",
    "SmoothL1LossBackward0": "huber",
    "HuberLossBackward0": "huber",
}
_MAX_NODES = 256


@dataclass(slots=True)
class Anatomy:
    """What could be read of a loss.

    kind: the loss function, "composite" for several, "unknown" for none that is known.
    multiplier: product of the constants (and of the element count, for a sum reduction) between
    the loss function's mean value and the number that backward is called on.
    trivial: loss of the best constant prediction on this batch's targets, multiplier included;
    None where the targets cannot be read.
    target_nonfinite: non-finite targets or weights in this batch.
    operations: names of the autograd nodes from the loss down to the model's last affine map.
    """

    value: float
    kind: str = "unknown"
    multiplier: float = 1.0
    trivial: float | None = None
    target_nonfinite: int = 0
    operations: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as `Flow.loss` keeps it."""
        return asdict(self)


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
    heads: list[tuple[Any, float]] = []
    several = False
    queue = [(loss.grad_fn, 1.0, False)]
    while queue and len(seen) < _MAX_NODES:
        node, factor, below = queue.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().rpartition("::")[2]
        if name.startswith(_WEIGHTED):
            continue
        result.operations.append(name)
        if name in _LOSSES:
            heads.append((node, factor))
            below = True
        if not below and name.startswith(("AddBackward", "SubBackward")):
            several = several or _branches(node) > 1
        constant = None if below else _constant(node, name)
        if constant is not None and not math.isfinite(constant):
            result.target_nonfinite += 1
        queue += [(n, factor * (constant or 1.0), below) for n, _ in node.next_functions]
    if heads and (several or len(heads) > 1):
        result.kind = "composite"
    elif heads:
        _read_head(result, *heads[0])
    return result


def _branches(node: Any) -> int:
    return sum(n is not None for n, _ in node.next_functions)


def _constant(node: Any, name: str) -> float | None:
    """The constant by which a scaling node multiplies its one differentiable input."""
    if not name.startswith(("MulBackward", "DivBackward")):
        return None
    if _branches(node) != 1:
        return None
    try:
        other = node._saved_other
        if other is None or other.numel() != 1:
            return None
        value = float(other)
    except (AttributeError, RuntimeError):
        return None
    if name.startswith("Div"):
        return 1.0 / value if value else math.inf
    return value


def _read_head(result: Anatomy, node: Any, factor: float) -> None:
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
    trivial, count = _trivial(result.kind, node, target, prediction.detach())
    reduction = getattr(node, "_saved_reduction", 1)  # 0 none, 1 mean, 2 sum
    result.multiplier = factor * (count if reduction == 2 else 1.0)
    if trivial is not None and math.isfinite(trivial):
        result.trivial = trivial * result.multiplier


def _trivial(
    kind: str, node: Any, target: torch.Tensor, prediction: torch.Tensor
) -> tuple[float | None, float]:
    """(mean loss of the best constant prediction, number of elements averaged over)."""
    if kind == "cross_entropy":
        target = target[target != node._saved_ignore_index]
        n = max(target.numel(), 1)
        counts = torch.bincount(target.reshape(-1)).double()
        share = counts[counts > 0] / n
        # Miller & Madow's correction: a small batch shows less entropy than its source has.
        bias = (share.numel() - 1) / (2 * n)
        return float(-(share * share.log()).sum()) + bias, n
    flat = target.reshape(target.shape[0] if target.dim() else 1, -1).double()
    n = flat.shape[0]
    if kind == "mse" and n > 1:
        return float(flat.var(0, unbiased=True).mean()), target.numel()
    if kind == "bce":
        p = flat.mean(0).clamp(1e-12, 1 - 1e-12)
        return float(-(p * p.log() + (1 - p) * (1 - p).log()).mean()), target.numel()
    return None, target.numel()
