"""Which operation of the loss function made the first value, or gradient, that is not finite.

The loss is computed in the script, where no module is open and no replay comes. Read from its graph
it can be computed again from the outputs that the replay has made, with every operation watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from surefoot.probes.origin import Origin, OriginMode
from surefoot.signals.criterion import Criterion, Leaf, Unreadable


def in_the_loss(
    criteria: Sequence[Criterion],
    outputs: Mapping[tuple[int, int], torch.Tensor],
    weights: Mapping[int, torch.Tensor],
) -> Origin | None:
    """The operation, forward or backward; None where it cannot be computed or nothing is found.

    outputs: (id of the entry, number of the output) -> its value; weights: id -> parameter.
    """
    leaves: dict[tuple[int, int], torch.Tensor] = {}

    def find(leaf: Leaf) -> torch.Tensor:
        key = id(leaf.entry), leaf.index
        if key not in leaves:
            leaves[key] = outputs[key].detach().requires_grad_()
        return leaves[key]

    mode = OriginMode(lambda: None)
    try:
        with torch.enable_grad(), mode:
            values = [c(find, weights) for c in criteria]
        found = mode.forward_origin()
        if found is None and leaves:
            mode.follow_backward(values)
            torch.autograd.grad(values, list(leaves.values()), allow_unused=True)
            found = mode.backward_origin()
    except (Unreadable, KeyError, RuntimeError):
        return None
    return found
