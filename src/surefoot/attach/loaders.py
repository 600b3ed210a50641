"""Which samples of the data set a batch was made of, as the DataLoader knows it.

The loader's iterator asks its sampler for indices and fetches what they stand for, with workers
some batches ahead. Both ends are listened to; the order in which batches come out is that in which
their indices were drawn, unless the loader was told otherwise (`in_order=False`).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_REMEMBERED = 4  # batches; a training that fetches further ahead is not told of its samples
_TENSORS = 8  # of a batch, looked at
_AHEAD = 4096  # batches drawn and not fetched: beyond that they are fetched in some other way


class Drawn:
    """Remembers the last few batches by the memory their tensors lie in; about 5 us a batch."""

    def __init__(self) -> None:
        self._ahead: weakref.WeakKeyDictionary[Any, deque[Any]] = weakref.WeakKeyDictionary()
        self._batches: deque[tuple[frozenset[int], tuple[int, ...]]] = deque(maxlen=_REMEMBERED)

    def reset(self, iterator: Any) -> None:
        """A new epoch begins: what was drawn and not fetched will not come."""
        self._ahead[iterator] = deque()

    def drawn(self, iterator: Any, indices: Any) -> None:
        """The sampler gave these indices."""
        if getattr(iterator, "_num_workers", 1) == 0:  # fetched at once, or never
            self._ahead[iterator] = deque([indices])
        elif iterator in self._ahead:  # otherwise it began before anyone listened
            queue = self._ahead[iterator]
            queue.append(indices)
            if len(queue) > _AHEAD:
                del self._ahead[iterator]

    def lost(self, iterator: Any) -> None:
        """The data set or a worker raised instead of giving the batch."""
        queue = self._ahead.get(iterator)
        if queue:
            queue.popleft()

    def fetched(self, iterator: Any, batch: Any) -> None:
        """The batch of the oldest indices came out."""
        queue = self._ahead.get(iterator)
        if not queue:
            return
        indices = queue.popleft()
        if not getattr(iterator, "_in_order", True) or not _numbers(indices):
            return
        tensors = [x for x in tree_leaves(batch) if isinstance(x, torch.Tensor)]
        places = frozenset(p for t in tensors[:_TENSORS] if (p := _place(t)))
        self._batches.append((places, tuple(map(int, indices))))

    def indices(self, tensors: Sequence[torch.Tensor], count: int) -> tuple[int, ...]:
        """Of the batch that shares memory with any of these; empty if none of that size does."""
        places = {p for t in tensors if (p := _place(t))}
        for known, indices in reversed(self._batches):
            if known & places:
                return indices if len(indices) == count else ()
        return ()


def _numbers(indices: Any) -> bool:
    return isinstance(indices, (list, tuple)) and all(isinstance(i, int) for i in indices)


def _place(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or without memory of its own
        return 0
