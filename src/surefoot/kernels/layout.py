"""Tensors of any layout, brought down to plain ones whose elements can be read in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})


class Lie(NamedTuple):
    """How tensors lie in memory, in their order: addresses, elements and dtypes."""

    addresses: list[int]
    sizes: list[int]
    dtypes: list[torch.dtype]


def in_place(tensors: Sequence[torch.Tensor]) -> Lie | None:
    """Return how the tensors lie, or None unless each covers a gapless stretch of memory.

    Of plain types (see PLAIN_TYPES): anything else may lie elsewhere than it says.
    """
    try:
        if False in [t.is_contiguous() or is_dense(t) for t in tensors]:
            return None
        lie = Lie(
            [t.data_ptr() for t in tensors],
            [t.numel() for t in tensors],
            [t.dtype for t in tensors],
        )
    except (RuntimeError, NotImplementedError):  # no memory of its own: sparse, opaque
        return None
    # a lazily negated tensor (an imaginary part) has gaps, unless it is a single element
    singles = [t for t, n in zip(tensors, lie.sizes, strict=True) if n == 1]
    return None if any(t.is_neg() for t in singles) else lie


def flatten(tensor: torch.Tensor) -> tuple[torch.Tensor | None, int]:
    """Return the stored elements as one strided dimension, and how many zeros are implied.

    A view wherever the elements lie side by side in memory in whatever order (contiguous,
    channels_last, transposed), a copy otherwise (slices, stride 0, duplicates of a sparse tensor).
    None where there are no data (meta). Nothing is written and no graph is recorded.

    >>> flatten(torch.eye(2).to_sparse())
    (tensor([1., 1.]), 2)
    """
    with torch.no_grad():
        plain = unwrapped(tensor)
        if plain.is_meta:
            return None, 0
        stored = _stored(plain.detach()).resolve_neg().resolve_conj()
        implied = plain.numel() - stored.numel()
        if stored.is_contiguous():
            return stored.view(-1), implied
        if is_dense(stored):
            return stored.as_strided((stored.numel(),), (1,)), implied
        return stored.contiguous().view(-1), implied


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether a strided tensor covers a gapless stretch of memory, each place once."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return True  # by far the most frequent, and quicker to ask
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Take the tensor out of a subclass, without running the subclass's own code on it."""
    if type(tensor) in PLAIN_TYPES:
        return tensor
    local = getattr(tensor, "to_local", None)
    if local is not None:  # DTensor: anything but the shard would communicate, and could hang
        return local()
    if hasattr(tensor, "__tensor_flatten__"):  # a wrapper without storage of its own
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements that are stored, strided; duplicates of a sparse tensor added up."""
    if tensor.is_nested:
        return torch.cat([part.reshape(-1) for part in tensor.unbind()])
    if tensor.layout is torch.strided:
        return tensor
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        return tensor.values()
    return tensor.to_dense()
