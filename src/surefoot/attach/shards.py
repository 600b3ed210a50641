"""How a distributed tensor lies over the ranks: whose pieces make the whole.

torch's DTensor says it by a mesh of ranks and, for each dimension of that, a placement: the tensor
is cut along it, is the same along it, or is the sum of what lies along it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


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


def members(tensors: Iterable[Any]) -> tuple[int, ...]:
    """All ranks that any of the distributed tensors lies on, in order."""
    meshes = {id(t.device_mesh): t.device_mesh for t in tensors}
    return tuple(sorted({r for mesh in meshes.values() for r in mesh.mesh.flatten().tolist()}))
