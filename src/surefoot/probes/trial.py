"""Trying a step on copies: a batch's loss and gradient at any weights, outside of the run.

A batch is what a step was made of: the calls of the model, and the loss as a function of their
outputs. A bench is the model with copies in place of its parameters and buffers.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from surefoot.probes.aside import set_aside
from surefoot.probes.attributes import Refused
from surefoot.probes.entry import Entry, call_again, versions_of
from surefoot.probes.limits import Limits, limits
from surefoot.probes.pytrees import tensors_in_call
from surefoot.signals.criterion import Criterion, Leaf

_TOLERANCE = 1e-3  # of a loss that is computed again: reductions may be ordered differently
_PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(slots=True)
class Batch:
    """What one step was made of. loss: as it was seen, summed over its backward calls."""

    step: int
    entries: list[Entry]
    criteria: list[Criterion]
    loss: float | None

    def check(self) -> None:
        """Raise Refused unless it can be run again as it was."""
        if not self.criteria:
            raise Refused("the loss could not be read")
        used = {id(leaf.entry) for c in self.criteria for leaf in c.leaves()}
        if not used <= {id(e) for e in self.entries}:
            raise Refused("the loss uses a call of the model that was not kept")
        for entry in self.entries:
            if refusal := entry.refusal():
                raise Refused(refusal)

    def tensors(self) -> list[torch.Tensor]:
        """Its inputs, targets and constants."""
        inputs = [t for e in self.entries for t in tensors_in_call(e.args, e.kwargs)]
        return inputs + [t for c in self.criteria for t in c.constants()]


class Kept:
    """A copy of a batch for later steps: it holds no tensor, module or other object of the run's.

    Raises Refused where an argument cannot be copied, or where the loss, computed again from the
    outputs that were kept with the entries, is not the one that was seen.

    limits: what its loss could have been, if that was asked for (`measured`).
    """

    def __init__(
        self, batch: Batch, weights: Mapping[int, torch.Tensor], measured: bool = False
    ) -> None:
        self._modules = [weakref.ref(e.module) for e in batch.entries]
        copies = {id(e): _bare(e) for e in batch.entries}
        criteria = [c.copied(copies) for c in batch.criteria]
        # This also finds the constants that no operation has saved.
        with torch.no_grad():
            value = sum(float(c(lambda x: x.entry.outputs[x.index], weights)) for c in criteria)
        if not agrees(value, batch.loss):
            raise Refused("the loss could not be computed again")
        owners = {id(copies[id(e)]): id(e.module) for e in batch.entries}
        self.limits = limits(criteria, weights, owners) if measured else Limits()
        for entry in copies.values():
            entry.outputs.clear()
        self._batch = Batch(batch.step, list(copies.values()), criteria, batch.loss)

    @contextlib.contextmanager
    def revived(self) -> Iterator[Batch | None]:
        """The batch with its modules for as long as it is needed; None if one of them is gone."""
        modules = [ref() for ref in self._modules]
        entries = self._batch.entries
        try:
            for entry, module in zip(entries, modules, strict=True):
                entry.module = module  # type: ignore[assignment]
            yield None if any(m is None for m in modules) else self._batch
        finally:
            for entry in entries:
                entry.module = None  # type: ignore[assignment]


def _bare(entry: Entry) -> Entry:
    """A copy of an entry without its module and what backward brought to it."""
    tree = (entry.args, entry.kwargs)
    if not all(isinstance(x, (torch.Tensor, *_PLAIN)) for x in tree_leaves(tree)):
        raise Refused("an argument of the model cannot be copied")
    args, kwargs = tree_map(_copied, tree)
    return replace(
        entry,
        module=None,  # type: ignore[arg-type]
        args=args,
        kwargs=kwargs,
        versions=versions_of(args, kwargs),
        past=entry.past.drawn() if entry.past is not None else None,
        received=[],
        outputs=dict(entry.outputs),
    )


def _copied(x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    return x.detach().clone().requires_grad_(x.requires_grad)


def agrees(value: float, seen: float | None) -> bool:
    """Whether a loss that was computed again is the one that was seen."""
    if seen is None or seen == value:
        return seen is not None
    if value != value or seen != seen:
        return value != value and seen != seen
    return abs(value - seen) <= _TOLERANCE * max(abs(value), abs(seen))


@dataclass(slots=True)
class Bench:
    """The model on copies. aliases: id(parameter) -> its stand-in; passes: made so far."""

    modules: list[nn.Module]
    aliases: dict[int, torch.Tensor]
    passes: int = 0
    wide: bool = False

    def place(self, weights: Mapping[int, torch.Tensor]) -> None:
        """Put copies of these values in place of the parameters: a forward may write on them."""
        for key, alias in self.aliases.items():
            if key in weights:
                alias.data = weights[key].detach().clone()

    def widen(self) -> None:
        """Go over to float64 for good: parameters, buffers, inputs, and no autocast."""
        self.wide = True
        for alias in self.aliases.values():
            if alias.is_floating_point():
                alias.data = alias.data.double()
        ours = {id(a) for a in self.aliases.values()}
        for module in self.modules:
            for name, p in module._parameters.items():
                if p is not None and id(p) not in ours and p.is_floating_point():
                    module._parameters[name] = nn.Parameter(p.detach().double(), False)
            for name, b in module._buffers.items():
                if b is not None and b.is_floating_point():
                    module._buffers[name] = b.double()

    def outputs(self, batch: Batch) -> dict[int, list[torch.Tensor]]:
        """id(entry) -> its outputs, with the graph that made them."""
        self.passes += 1
        around = contextlib.nullcontext()
        return {id(e): call_again(e, around, self.wide)[0] for e in batch.entries}

    def value(self, batch: Batch) -> torch.Tensor:
        """The batch's loss [] at the weights in place, differentiable."""
        made = self.outputs(batch)

        def find(leaf: Leaf) -> torch.Tensor:
            return made[id(leaf.entry)][leaf.index]

        return torch.stack([c(find, self.aliases) for c in batch.criteria]).sum()

    def loss(self, batch: Batch) -> float:
        """The batch's loss at the weights in place."""
        return float(self.value(batch).detach())

    def gradient(self, batch: Batch) -> tuple[float, dict[int, torch.Tensor]]:
        """(loss, id(parameter) -> gradient) at the weights in place."""
        value = self.value(batch)
        if not value.requires_grad:
            raise Refused("the loss carries no gradient")
        self.passes += 1
        made = torch.autograd.grad(value, list(self.aliases.values()), allow_unused=True)
        found = {k: g for k, g in zip(self.aliases, made, strict=True) if g is not None}
        return float(value.detach()), found


@contextlib.contextmanager
def bench(modules: list[nn.Module], weights: Mapping[int, torch.Tensor]) -> Iterator[Bench]:
    """The model set aside, with these values in place of its parameters."""
    with set_aside(modules) as aliases:
        made = Bench(modules, aliases)
        made.place(weights)
        yield made


def norm(gradients: Mapping[int, torch.Tensor], keys: set[int] | None = None) -> float:
    """Frobenius norm over several gradients, in double; `keys` leaves out the others."""
    squares = [
        float(
            torch.linalg.vector_norm(
                g.coalesce().values() if g.is_sparse else g, dtype=torch.float64
            )
        )
        ** 2
        for k, g in gradients.items()
        if keys is None or k in keys
    ]
    return sum(squares) ** 0.5
