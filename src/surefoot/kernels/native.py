"""The pass in C: found beside this file, called through ctypes on raw pointers, GIL released.

A step costs one C call to ask where the gradients lie and one to read them. What cannot be read as
it lies takes the slower way in `_look_closer`.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import torch

from surefoot.kernels.addresses import KINDS, Addresses
from surefoot.kernels.eager import EagerPass, add_implied_zeros
from surefoot.kernels.exchange import Locate, find_locate
from surefoot.kernels.layout import flatten
from surefoot.kernels.shares import Shares
from surefoot.kernels.statistics import check_out

LEVELS = ("baseline", "avx2", "avx512")  # as native.c numbers them


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded shared library and the highest level (an index of LEVELS) this CPU runs.

    locate: how to ask where tensors lie, None where each must be asked by itself.
    """

    handle: ctypes.CDLL
    best: int
    locate: Locate | None = None

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
        library = Library(handle, handle.surefoot_best_level(), find_locate(found[0]))
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
        self._addresses = Addresses(capacity, library.locate)
        self._shares = Shares()

    def __call__(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Fill `out`; see `Pass`."""
        check_out(out, len(tensors))
        if not self._busy.acquire(blocking=False):  # another thread's step, or a call in a call
            NativePass(self._library, self._level, len(tensors))(tensors, out)
            return
        try:
            if self._addresses.describe(tensors):
                self._run(len(tensors), out)
            else:
                self._look_closer(tensors, out)
        finally:
            self._busy.release()

    def _run(self, count: int, out: np.ndarray) -> None:
        self._shares.run(self._read, self._addresses, count, out)

    def _read(self, count: int, *pointers: int) -> None:
        self._library.handle.surefoot_parameter_pass(self._level, count, *pointers)

    def _look_closer(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Bring each tensor to a form that C reads, or leave it to the eager pass."""
        ready: list[torch.Tensor] = []  # kept until C is done: some are copies
        implied: dict[int, int] = {}
        eager: list[int] = []
        self._addresses.clear(len(tensors))
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
            self._addresses.put(row, flat)
        self._run(len(tensors), out)
        for row, zeros in implied.items():
            add_implied_zeros(out[row], int(self._addresses.counts[row]), zeros)
        if eager:
            rows = np.empty((len(eager), out.shape[1]))
            self._eager([tensors[row] for row in eager], rows)
            out[eager] = rows
