"""In which octaves the magnitudes of many tensors lie, on a sample of each.

A row is the exponent of the largest magnitude's octave, floor(log2 |x|), then the shares of the
finite elements in that octave and in each of the 23 below it, then the share of all that is smaller
yet not zero; the zeros make up the rest to one. Octaves count from the top, since the scale of a
gradient is that of the loss.

The sample is a tensor's whole content up to 2048 elements, else 4 evenly spaced stretches of 512:
a share's standard error is about 1 % at most.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from surefoot.kernels.addresses import Addresses
from surefoot.kernels.layout import flatten
from surefoot.kernels.native import Library

OCTAVES = 24
WIDTH = OCTAVES + 2
_STRETCH, _STRETCHES = 512, 4

Magnitudes = Callable[[Sequence[torch.Tensor | None], np.ndarray], None]


def make_magnitudes(library: Library | str, capacity: int) -> Magnitudes:
    """What fills `out` [n, WIDTH] with the rows of n tensors, NaN where there is none or nothing.

    In C where the library is there, for what it can read as it lies; in NumPy for all else.
    """
    if isinstance(library, str):
        return _by_numpy
    addresses, busy = Addresses(capacity, library.locate), threading.Lock()
    function = library.handle.surefoot_magnitudes
    function.argtypes = (ctypes.c_int64, *[ctypes.c_void_p] * 4)
    function.restype = None

    def by_library(tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        if not busy.acquire(blocking=False):  # another thread's step
            _by_numpy(tensors, out)
            return
        try:
            if addresses.describe(tensors):
                function(len(tensors), *addresses.arguments, out.ctypes.data)
            else:
                _by_numpy(tensors, out)
        finally:
            busy.release()

    return by_library


def _by_numpy(tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
    out.fill(np.nan)
    samples: dict[tuple[torch.device, torch.dtype], list[tuple[int, torch.Tensor]]] = {}
    with torch.no_grad():
        for row, tensor in enumerate(tensors):
            flat = None if tensor is None else flatten(tensor)[0]
            if flat is not None and flat.numel():
                sample = _sample(flat).abs()
                samples.setdefault((sample.device, sample.dtype), []).append((row, sample))
        for group in samples.values():  # one way off the device for all of its tensors
            values = torch.cat([sample for _, sample in group]).cpu().double().numpy()
            ends = np.cumsum([sample.numel() for _, sample in group])
            for (row, _), sizes in zip(group, np.split(values, ends[:-1]), strict=True):
                _fill(sizes, out[row])


def _sample(flat: torch.Tensor) -> torch.Tensor:
    if flat.numel() <= _STRETCH * _STRETCHES:
        return flat
    step = (flat.numel() - _STRETCH) // (_STRETCHES - 1)
    return torch.cat([flat[i * step : i * step + _STRETCH] for i in range(_STRETCHES)])


def _fill(sizes: np.ndarray, row: np.ndarray) -> None:
    finite = sizes[np.isfinite(sizes)]
    _, exponents = np.frexp(finite[finite > 0])
    row[:] = 0.0
    if not exponents.size:
        row[0] = np.nan
        return
    top = exponents.max()
    row[0] = top - 1
    below = np.minimum(top - exponents, OCTAVES)
    row[1:] = np.bincount(below, minlength=OCTAVES + 1) / finite.size
