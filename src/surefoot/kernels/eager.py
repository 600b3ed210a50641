"""The pass in PyTorch operations: any device, any dtype, nothing to build.

It serves where the native library is missing and for what that does not read. Elements are
widened to float64 a chunk at a time: float32 sums of squares turn a norm of 1e-30 into 0 and of
1e25 into infinity, and lose 0.3 % over 38 million elements (torch's own `_foreach_norm` included).
A tensor whose results show non-finite values is read again with those masked, and one whose
squares leave float64's range once more, scaled. All tensors' results leave their device together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from surefoot.kernels.layout import flatten
from surefoot.kernels.statistics import MEAN, NONFINITE, ZEROS, check_out

CHUNKS = {"cpu": 1 << 18}  # elements widened at once: what a CPU's caches hold
CHUNK = 1 << 24  # on other devices: 128 MiB of float64, few launches
NATIVE_REALS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
# A float64 sum of squares outside this range may have lost elements to under- or overflow.
FAITHFUL = (1e-250, 1e300)


class EagerPass:
    """Statistics of any tensors by PyTorch operations."""

    name = "eager"

    def __call__(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Fill `out`; see `Pass`."""
        check_out(out, len(tensors))
        out.fill(np.nan)
        implied: dict[int, int] = {}
        flats: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for row, tensor in enumerate(tensors):
                flat, zeros = (None, 0) if tensor is None else flatten(tensor)
                if flat is not None:
                    flats[row], implied[row] = computable(flat), zeros
            _fill_rows(flats, out)
        for row, zeros in implied.items():
            add_implied_zeros(out[row], flats[row].numel(), zeros)


def add_implied_zeros(row: np.ndarray, stored: int, implied: int) -> None:
    """Correct a row of `stored` elements for `implied` more elements that are zero."""
    if implied:
        finite = stored - row[NONFINITE]
        row[MEAN] *= finite / (finite + implied)
        row[ZEROS] += implied


def computable(flat: torch.Tensor) -> torch.Tensor:
    """Bring a tensor to a dtype and device on which float64 arithmetic and `aminmax` exist."""
    if flat.device.type == "mps":  # has no float64
        flat = flat.cpu()
    if flat.dtype in NATIVE_REALS or flat.is_complex():
        return flat
    return flat.to(torch.float64)


def _fill_rows(flats: dict[int, torch.Tensor], out: np.ndarray) -> None:
    """Fill the rows named by the keys from one-dimensional tensors."""
    real = {row: flat for row, flat in flats.items() if flat.numel() and not flat.is_complex()}
    pending = [_sums(flat) for flat in real.values()]
    for (row, flat), sums in zip(real.items(), _fetch(pending), strict=True):
        if not math.isfinite(sums[1]):
            sums = _fetch([_sums(flat, masked=True)])[0]
        low, high = FAITHFUL
        scale = 1.0
        if sums[1] > 0.0 and not low < sums[0] < high:
            scale = sums[1]
            sums = _fetch([_sums(flat, masked=True, scale=scale)])[0]
        out[row] = _row(sums, flat.numel(), scale)
    for row, flat in flats.items():
        if row not in real:
            out[row] = _complex_row(flat) if flat.numel() else 0.0


def _sums(flat: torch.Tensor, masked: bool = False, scale: float = 1.0) -> torch.Tensor:
    """Return [sum of squares, largest, sum, nonzeros, nonfinite] as float64 [5], on the device.

    Of the elements over `scale`. NaN or infinite where elements are and are not `masked` to zero;
    `nonfinite` is counted only then.
    """
    rows = []
    for chunk in flat.split(CHUNKS.get(flat.device.type, CHUNK)):
        wide = chunk.to(torch.float64)
        bad = wide.new_zeros(())
        if masked:
            bad = (wide - wide).count_nonzero()  # a finite number less itself is zero
            wide = wide.nan_to_num(0.0, 0.0, 0.0)
        if scale != 1.0:
            wide = wide / scale
        low, high = torch.aminmax(wide if masked else chunk)
        largest = torch.maximum(low.abs(), high.abs())
        parts = (wide.dot(wide), largest, wide.sum(), chunk.count_nonzero(), bad)
        rows.append(torch.stack([part.double() for part in parts]))
    if len(rows) == 1:
        return rows[0]
    table = torch.stack(rows)
    total = table.sum(dim=0)
    total[1] = table[:, 1].amax()  # propagates NaN
    return total


def _fetch(parts: list[torch.Tensor]) -> list[list[float]]:
    """Copy [5] tensors to the host with one transfer per device."""
    fetched: dict[int, list[float]] = {}
    for device in {part.device for part in parts}:
        where = [i for i, part in enumerate(parts) if part.device == device]
        rows = torch.stack([parts[i] for i in where]).tolist()
        fetched.update(zip(where, rows, strict=True))
    return [fetched[i] for i in range(len(parts))]


def _row(sums: list[float], count: int, scale: float) -> tuple[float, ...]:
    """Norm, maxabs, mean, nonfinite and zeros from `_sums` of `count` elements over `scale`."""
    square, largest, total, nonzeros, nonfinite = sums
    if scale != 1.0:
        largest = scale  # as it was measured, before the division
    finite = count - nonfinite
    mean = total / finite * scale if finite else 0.0
    return math.sqrt(square) * scale, largest, mean, nonfinite, count - nonzeros


def _complex_row(flat: torch.Tensor) -> tuple[float, ...]:
    """The row of complex elements: by magnitude, the mean by real part. Rare, so plain."""
    finite = torch.isfinite(flat)
    wide = torch.where(finite, flat.to(torch.complex128), 0.0)
    scale = float(torch.view_as_real(wide).abs().max()) or 1.0
    wide = wide / scale
    size = wide.abs()
    count = float(finite.sum())
    mean = float(wide.real.sum()) / count * scale if count else 0.0
    norm, largest = math.sqrt(float(size.dot(size))) * scale, float(size.max()) * scale
    return norm, largest, mean, flat.numel() - count, float((flat == 0).sum())
