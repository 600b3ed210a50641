"""Two losses that a run can be measured by: the best constant answer's, and the least in reach.

Of a loss function that is known by name both have a closed form (`signals.loss`, `signals.reach`).
Of any other that can be computed again from the model's outputs they are searched for here: over
one row that stands in for all samples, and over outputs that keep within the bounds of the
operation that makes them. By resilient propagation (Riedmiller & Braun 1993): each number has a
step of its own, half as long wherever its slope has turned and longer where it has not, so that
kinks and units do not matter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surefoot.signals.criterion import Criterion, Leaf
from surefoot.signals.reach import bounds_of

Loss = Callable[[list[torch.Tensor]], torch.Tensor]
_ROUNDS, _MEMORY, _SMALL = 100, 10, 1e-3
_SETTLED = 1e-3  # of the loss: less than that in `_MEMORY` rounds is an end
_SECONDS = 0.1
_LARGEST = 1 << 20  # elements of outputs
_SAMPLES = 8  # fewer that share a row can nearly be learned by heart
_NOTHING = 1e-2  # of the loss that it is measured by


@dataclass(frozen=True, slots=True)
class Limits:
    """What a loss could have been; None where nothing was found.

    constant: of the best outputs that do not depend on the sample; floor: of the best outputs
    within the bounds of `operation`, which makes them.
    """

    constant: float | None = None
    floor: float | None = None
    operation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the loss's anatomy names them (`signals.loss`)."""
        return {"constant": self.constant, "floor": self.floor, "bounded": self.operation}


def limits(
    criteria: Sequence[Criterion],
    weights: Mapping[int, torch.Tensor],
    owners: Mapping[int, object] | None = None,
) -> Limits:
    """What a step's loss could have been.

    criteria: of one step, with the outputs kept in their entries; each must have been computed once
    from those. owners: id(entry) -> whose call it was: calls of one module give the same answer.
    Dimension 0 of an output holds the samples, of three dimensions the first two do. Nothing is
    found for an output that is the loss itself, for too few samples, or for a loss that has no
    least value or next to none.
    """
    leaves = _distinct(leaf for c in criteria for leaf in c.leaves())
    outputs = [leaf.entry.outputs.get(leaf.index) for leaf in leaves]
    known = [y for y in outputs if y is not None and y.is_floating_point()]
    if not known or len(known) < len(outputs) or sum(y.numel() for y in known) > _LARGEST:
        return Limits()
    if min(math.prod(y.shape[: _shared(y)]) for y in known) < _SAMPLES:
        return Limits()

    def loss(values: list[torch.Tensor]) -> torch.Tensor:
        made = {(id(x.entry), x.index): v for x, v in zip(leaves, values, strict=True)}
        return torch.stack(
            [c(lambda x: made[id(x.entry), x.index], weights).double() for c in criteria]
        ).sum()

    constant = _constant(loss, leaves, known, owners or {})
    bounds = [bounds_of(leaf.operation) for leaf in leaves]
    bounded = next((x.operation for x, b in zip(leaves, bounds, strict=True) if b), None)
    if constant is None or bounded is None:
        return Limits(constant)
    inside = [(-math.inf, math.inf) if b is None else b for b in bounds]
    wide = [y.double() for y in known]
    return Limits(constant, _descend(loss, wide, inside, _NOTHING * constant), bounded)


def _constant(
    loss: Loss, leaves: list[Leaf], known: list[torch.Tensor], owners: Mapping[int, object]
) -> float | None:
    places: list[int] = []
    rows: dict[object, tuple[int, torch.Tensor]] = {}
    for leaf, y in zip(leaves, known, strict=True):
        row = y.double().mean(tuple(range(_shared(y))), keepdim=True)
        key = owners.get(id(leaf.entry), id(leaf.entry)), leaf.index, row.shape
        places.append(rows.setdefault(key, (len(rows), row))[0])
    means = [row for _, row in rows.values()]
    if not all(bool(torch.isfinite(row).all()) for row in means):
        return None

    def spread(values: list[torch.Tensor]) -> torch.Tensor:
        return loss([values[i].expand(y.shape) for i, y in zip(places, known, strict=True)])

    # The mean of the outputs is near the answer, unless the network has lost all measure.
    none = [torch.zeros_like(row) for row in means]
    starts = sorted((_measured(spread, start)[0], i) for i, start in enumerate((means, none)))
    value, better = starts[0]
    # What a constant can bring to nothing is no question of the input.
    return _descend(spread, (means, none)[better], nothing=_NOTHING * value) or None


def _shared(output: torch.Tensor) -> int:
    """How many of the first dimensions hold samples."""
    return 0 if output.dim() == 0 else 2 if output.dim() == 3 else 1


def _distinct(leaves: Iterable[Leaf]) -> list[Leaf]:
    return list({(id(x.entry), x.index): x for x in leaves}.values())


def _descend(
    loss: Loss,
    rows: list[torch.Tensor],
    bounds: Sequence[tuple[float, float]] = (),
    nothing: float = 0.0,
) -> float | None:
    """The least loss found from `rows` on, within `bounds`; 0 once it is below `nothing`."""
    begin = time.perf_counter()
    value, slope = _measured(loss, rows)
    if not 0 < value < math.inf:
        return None
    best = [value]
    steps = [torch.full_like(x, 0.1 * float(x.abs().mean()) + _SMALL) for x in rows]
    before = [torch.zeros_like(x) for x in rows]
    for _ in range(_ROUNDS):
        turned = [a * b for a, b in zip(slope, before, strict=True)]
        factors = [1.0 + 0.5 * (t > 0).double() - 0.5 * (t < 0).double() for t in turned]
        steps = [s * f for s, f in zip(steps, factors, strict=True)]
        before = [torch.where(t < 0, 0.0, g) for t, g in zip(turned, slope, strict=True)]
        moved = [x - s * g.sign() for x, s, g in zip(rows, steps, before, strict=True)]
        rows = [x.clamp(*b) for x, b in zip(moved, bounds, strict=True)] if bounds else moved
        value, slope = _measured(loss, rows)
        if math.isinf(value):
            return None
        best.append(min(best[-1], value))
        if not best[-1] > nothing:
            return 0.0
        late = len(best) > _MEMORY and best[-_MEMORY] - best[-1] < _SETTLED * best[-1]
        if late or time.perf_counter() - begin > _SECONDS:
            break
    settled = best[-min(_MEMORY, len(best))] - best[-1] < 10 * _SETTLED * best[-1]
    return best[-1] if settled else None


def _measured(loss: Loss, rows: list[torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    with torch.enable_grad():
        leaves = [row.detach().requires_grad_() for row in rows]
        value = loss(leaves)
        made = torch.autograd.grad(value, leaves, allow_unused=True)
    slopes = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, made, strict=True)]
    value = float(value.detach())
    finite = math.isfinite(value) and all(bool(torch.isfinite(g).all()) for g in slopes)
    return (value if finite else math.inf), slopes
