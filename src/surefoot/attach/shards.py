"""How a distributed tensor lies over the ranks: whose pieces make the whole.

torch's DTensor says it by a mesh of ranks and, for each dimension of that, a placement: the tensor
is cut along it, is the same along it, or is the sum of what lies along it. The older
FullyShardedDataParallel lays the parameters of a module end to end and cuts that: a rank holds
some elements of a parameter, or none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from surefoot.kernels.pieces import is_distributed


@dataclass(frozen=True, slots=True)
class Layout:
    """Of one tensor, as one of its ranks sees it.

    ranks: those whose pieces make the whole, each part of it once; divisor: of the sum of their
    pieces, where these are not parts of the whole but summands, 0 where they are parts; known:
    whether the whole can be told from what each of them measures of its own piece.
    """

    ranks: tuple[int, ...]
    divisor: int = 0
    known: bool = True

    @property
    def whole(self) -> bool:
        """Whether this rank's own piece is all of it."""
        return len(self.ranks) == 1


def layout(tensor: Any) -> Layout:
    """The layout of a DTensor."""
    mesh, placements = tensor.device_mesh, tensor.placements
    place = mesh.get_coordinate()
    if place is None:  # this rank has no part in it
        return Layout((), known=False)
    index: list[Any] = list(place)
    cut, operations = False, []
    for i, placement in enumerate(placements):
        if placement.is_replicate() or mesh.size(i) == 1:
            continue
        index[i] = slice(None)
        if placement.is_partial():
            operations.append(placement.reduce_op)
        else:
            cut = True
    ranks = tuple(mesh.mesh[tuple(index)].flatten().tolist())
    if not operations:
        return Layout(ranks)
    divisor = len(ranks) if operations[0] == "avg" else 1
    usual = len(set(operations)) == 1 and operations[0] in ("sum", "avg")
    return Layout(ranks, divisor, known=usual and not cut)


def laid_end_to_end(modules: Iterable[nn.Module]) -> dict[int, Layout]:
    """id(parameter) -> layout of those that FullyShardedDataParallel has cut."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    found: dict[int, Layout] = {}
    if kind is None:  # nobody has imported it
        return found
    for module in modules:  # of one inside of another the inner comes later, and has its own
        if isinstance(module, kind) and module.sharding_strategy.name != "NO_SHARD":
            ranks = Layout(tuple(distributed.get_process_group_ranks(module.process_group)))
            cut = (p for p in module.parameters() if getattr(p, "_fsdp_flattened", False))
            found |= {id(p): ranks for p in cut}
    return found


def layouts(
    tensors: Iterable[torch.Tensor], modules: Iterable[nn.Module]
) -> tuple[dict[int, Layout], tuple[int, ...]]:
    """(place -> layout of those that lie on several ranks, all these ranks in order)."""
    flat = laid_end_to_end(modules)
    found: dict[int, Layout] = {}
    ranks: set[int] = set()
    for i, tensor in enumerate(tensors):
        if is_distributed(tensor):
            found[i] = layout(tensor)
            ranks.update(tensor.device_mesh.mesh.flatten().tolist())  # type: ignore[attr-defined]
        elif id(tensor) in flat:
            found[i] = flat[id(tensor)]
            ranks.update(found[i].ranks)
    return found, tuple(sorted(ranks))
