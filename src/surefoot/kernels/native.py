"""The pass in C: found beside this file, called through ctypes on raw pointers, GIL released.

A step costs one C call and six attribute reads a tensor. Those six are what it takes to know that
an address can be read: the list is handed over anew each step (`zero_grad` makes every gradient a
new tensor), so nothing learnt from the last step may be trusted, and PyTorch has no public call
that answers for a whole list. What they do not clear takes the slower way in `_look_closer`.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import compress
from pathlib import Path
from typing import cast

import numpy as np
import torch

from surefoot.kernels.eager import EagerPass, add_implied_zeros
from surefoot.kernels.layout import PLAIN_TYPES, flatten, is_dense
from surefoot.kernels.statistics import check_out

LEVELS = ("baseline", "avx2", "avx512")  # as native.c numbers them
KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
MISSING = -1  # the kind whose row is NaN


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded shared library and the highest level (an index of LEVELS) this CPU runs."""

    handle: ctypes.CDLL
    best: int

    def read_floor(self, tensors: Sequence[torch.Tensor]) -> None:
        """Read contiguous tensors once and do nothing else: what any pass must cost at least."""
        count = len(tensors)
        self.handle.surefoot_read_floor(
            self.best,
            count,
            (ctypes.c_void_p * count)(*[tensor.data_ptr() for tensor in tensors]),
            (ctypes.c_int64 * count)(*[tensor.nbytes for tensor in tensors]),
        )


def load(folder: Path = Path(__file__).parent) -> Library | str:
    """Load the library from `folder`, or say why that is impossible."""
    candidates = [folder / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES]
    found = [path for path in candidates if path.exists()]
    if not found:
        return "the native library was not built when surefoot was installed (no C compiler?)"
    try:
        handle = ctypes.CDLL(os.fspath(found[0]))
        pointers = ctypes.c_void_p
        handle.surefoot_parameter_pass.argtypes = (ctypes.c_int, ctypes.c_int64, *[pointers] * 4)
        handle.surefoot_parameter_pass.restype = None
        handle.surefoot_read_floor.argtypes = (ctypes.c_int, ctypes.c_int64, *[pointers] * 2)
        handle.surefoot_read_floor.restype = ctypes.c_uint64
        library = Library(handle, handle.surefoot_best_level())
        return library if _agrees(library) else f"{found[0].name} gives wrong results here"
    except (OSError, AttributeError) as error:
        return f"{found[0].name} cannot be loaded: {error}"


def _agrees(library: Library) -> bool:
    """Try the library on four known elements, in case it was built for another machine."""
    out = np.empty((1, 5))
    NativePass(library, library.best, 1)([torch.tensor([3.0, -4.0, 0.0, torch.inf])], out)
    return bool(np.allclose(out, [[5.0, 4.0, -1 / 3, 1.0, 1.0]], rtol=1e-6))


class NativePass:
    """Statistics by the C library at one of its levels."""

    def __init__(self, library: Library, level: int, capacity: int) -> None:
        self.name = f"native-{LEVELS[level]}"
        self._library = library
        self._level = level
        self._eager = EagerPass()
        self._busy = threading.Lock()
        self._resize(max(capacity, 1))

    def _resize(self, capacity: int) -> None:
        self._capacity = capacity
        self._addresses = (ctypes.c_uint64 * capacity)()
        self._counts = np.zeros(capacity, np.int64)
        self._kinds = np.full(capacity, MISSING, np.int8)
        self._arguments = (
            ctypes.addressof(self._addresses),
            self._counts.ctypes.data,
            self._kinds.ctypes.data,
        )
        # what the arrays now describe, so that only a change is written
        self._types: list[type] = []
        self._sizes: list[int] = []
        self._dtypes: list[torch.dtype] = []
        self._gaps = False

    def __call__(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Fill `out`; see `Pass`."""
        check_out(out, len(tensors))
        if not self._busy.acquire(blocking=False):  # another thread's step, or a call in a call
            NativePass(self._library, self._level, len(tensors))(tensors, out)
            return
        try:
            if len(tensors) > self._capacity:
                self._resize(len(tensors))
            if self._readable(tensors):
                self._run(len(tensors), out)
            else:
                self._look_closer(tensors, out)
        finally:
            self._busy.release()

    def _run(self, count: int, out: np.ndarray) -> None:
        self._library.handle.surefoot_parameter_pass(
            self._level, count, *self._arguments, out.__array_interface__["data"][0]
        )

    def _readable(self, tensors: Sequence[torch.Tensor | None]) -> bool:
        """Describe the tensors to C if every one can be read as it lies; False otherwise."""
        types = list(map(type, tensors))
        known = types == self._types
        if not known:
            self._types = []  # until all is described
            if not PLAIN_TYPES.issuperset(set(types) - {type(None)}):
                return False
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
        # a lazily negated tensor (an imaginary part) has gaps, unless it is a single element
        if 1 in sizes and any(t.is_neg() for t in compress(there, (n == 1 for n in sizes))):
            return False
        if not (known and sizes == self._sizes and dtypes == self._dtypes):
            if not KINDS.keys() >= set(dtypes):
                return False
            self._describe(types, sizes, dtypes)
        if self._gaps:
            following = iter(addresses)
            addresses = [0 if tensor is None else next(following) for tensor in tensors]
        struct.pack_into(f"{len(addresses)}Q", self._addresses, 0, *addresses)
        return True

    def _describe(self, types: list[type], sizes: list[int], dtypes: list[torch.dtype]) -> None:
        there = np.flatnonzero([kind is not type(None) for kind in types])
        self._kinds[:] = MISSING
        self._kinds[there] = [KINDS[dtype] for dtype in dtypes]
        self._counts[there] = sizes
        self._types, self._sizes, self._dtypes = types, sizes, dtypes

    def _look_closer(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Bring each tensor to a form that C reads, or leave it to the eager pass."""
        ready: list[torch.Tensor] = []  # kept until C is done: some are copies
        implied: dict[int, int] = {}
        eager: list[int] = []
        self._types = []  # the arrays are about to describe something else
        self._kinds[:] = MISSING
        for row, tensor in enumerate(tensors):
            if tensor is None:
                continue
            flat, zeros = flatten(tensor)
            if flat is None:
                continue
            if not flat.is_cpu or type(flat) is not torch.Tensor or flat.dtype not in KINDS:
                eager.append(row)
                continue
            ready.append(flat)
            implied[row] = zeros
            self._addresses[row] = flat.data_ptr()
            self._counts[row] = flat.numel()
            self._kinds[row] = KINDS[flat.dtype]
        self._run(len(tensors), out)
        for row, zeros in implied.items():
            add_implied_zeros(out[row], int(self._counts[row]), zeros)
        if eager:
            rows = np.empty((len(eager), out.shape[1]))
            self._eager([tensors[row] for row in eager], rows)
            out[eager] = rows
