"""Where the elements of many tensors lie, in arrays that C reads.

The list is handed over anew each step (`zero_grad` makes every gradient a new tensor), so nothing
learnt from the last step may be trusted: each tensor is asked again. Through PyTorch's C table that
is one call for all; before PyTorch 2.10 it takes six attributes each.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from itertools import compress
from typing import cast

import numpy as np
import torch

from surefoot.kernels.exchange import Locate
from surefoot.kernels.layout import PLAIN_TYPES, is_dense

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ITEM_BYTES = np.array([dtype.itemsize for dtype in KINDS])
MISSING = -1  # the kind whose row is NaN


class Addresses:
    """Room for `capacity` tensors; more make it grow.

    counts, kinds: elements and, as KINDS numbers them, dtype of each; bytes: what they hold
    together. arguments: pointers to the three arrays.
    """

    def __init__(self, capacity: int, locate: Locate | None) -> None:
        self._locate = locate
        self._bytes = ctypes.c_int64()
        self._at_bytes = ctypes.addressof(self._bytes)
        self._resize(max(capacity, 1))

    def _resize(self, capacity: int) -> None:
        self._capacity = capacity
        self._addresses = (ctypes.c_uint64 * capacity)()
        self.counts = np.zeros(capacity, np.int64)
        self.kinds = np.full(capacity, MISSING, np.int8)
        self.arguments = (
            ctypes.addressof(self._addresses),
            self.counts.ctypes.data,
            self.kinds.ctypes.data,
        )
        self._forget()

    def _forget(self) -> None:
        """What the arrays describe, so that only a change is written: nothing."""
        self._types: list[type] | None = None
        self._sizes: list[int] = []
        self._dtypes: list[torch.dtype] = []
        self._gaps = False

    @property
    def bytes(self) -> int:
        """What the described tensors hold together."""
        return self._bytes.value

    def places(self, count: int) -> np.ndarray:
        """The addresses of the first tensors; of one that is not there, anything."""
        return np.frombuffer(memoryview(self._addresses), np.uint64, count)

    def clear(self, count: int) -> None:
        """Make room for so many tensors, of which none is there."""
        if count > self._capacity:
            self._resize(count)
        self._forget()
        self._bytes.value = 0
        self.kinds[:] = MISSING

    def put(self, row: int, flat: torch.Tensor) -> None:
        """Describe one tensor that lies contiguous on the CPU, of a dtype among KINDS."""
        self._addresses[row] = flat.data_ptr()
        self.counts[row] = flat.numel()
        self.kinds[row] = KINDS[flat.dtype]
        self._bytes.value += flat.nbytes

    def describe(self, tensors: Sequence[torch.Tensor | None]) -> bool:
        """Fill the arrays if every tensor can be read as it lies; False otherwise."""
        if len(tensors) > self._capacity:
            self._resize(len(tensors))
        types = list(map(type, tensors))
        known = types == self._types
        if not known:
            self._types = None  # until all is described
            if not PLAIN_TYPES.issuperset(set(types) - {type(None)}):
                return False
        if self._locate is None:
            return self._ask_each(tensors, types, known)
        self._types = types
        return self._ask_all(tensors, self._locate)

    def _ask_all(self, tensors: Sequence[torch.Tensor | None], locate: Locate) -> bool:
        listed = tensors if type(tensors) is list else list(tensors)
        try:
            singles = locate(listed, len(listed), *self.arguments, self._at_bytes)
        except Exception:  # no memory of its own: sparse, opaque
            return False
        if singles <= 0:
            return singles == 0
        # a lazily negated tensor (an imaginary part) has gaps, unless it is a single element
        there = zip(listed, self.counts.tolist(), strict=False)
        return not any(t is not None and n == 1 and t.is_neg() for t, n in there)

    def _ask_each(
        self, tensors: Sequence[torch.Tensor | None], types: list[type], known: bool
    ) -> bool:
        if not known:
            self._gaps = type(None) in types
        there = cast("Sequence[torch.Tensor]", tensors)
        if self._gaps:
            there = [tensor for tensor in tensors if tensor is not None]
        try:
            if False in [t.is_cpu and (t.is_contiguous() or is_dense(t)) for t in there]:
                return False
            sizes = [t.numel() for t in there]
            dtypes = [t.dtype for t in there]
            addresses = [t.data_ptr() for t in there]
        except (RuntimeError, NotImplementedError):  # no memory of its own: sparse, opaque
            return False
        if 1 in sizes and any(t.is_neg() for t in compress(there, (n == 1 for n in sizes))):
            return False
        if not (known and sizes == self._sizes and dtypes == self._dtypes):
            if not KINDS.keys() >= set(dtypes):
                return False
            self._note(types, sizes, dtypes)
        if self._gaps:
            following = iter(addresses)
            addresses = [0 if tensor is None else next(following) for tensor in tensors]
        struct.pack_into(f"{len(addresses)}Q", self._addresses, 0, *addresses)
        return True

    def _note(self, types: list[type], sizes: list[int], dtypes: list[torch.dtype]) -> None:
        there = np.flatnonzero([kind is not type(None) for kind in types])
        self.kinds[:] = MISSING
        self.kinds[there] = [KINDS[dtype] for dtype in dtypes]
        self.counts[there] = sizes
        held = zip(sizes, dtypes, strict=True)
        self._bytes.value = sum(size * dtype.itemsize for size, dtype in held)
        self._types, self._sizes, self._dtypes = types, sizes, dtypes
