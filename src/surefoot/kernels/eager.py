"""The pass in PyTorch operations: any device, any dtype, nothing to build.

It serves where the native library is missing and for what that does not read. Elements are
widened to float64 a chunk at a time: float32 sums of squares turn a norm of 1e-30 into 0 and of
1e25 into infinity, and lose 0.3 % over 38 million elements (torch's own `_foreach_norm` included).
A tensor whose first results show non-finite, overflowing or vanishing values is read once more,
masked and scaled. All tensors' results leave their device in one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from surefoot.kernels.layout import flatten
from surefoot.kernels.statistics import MAXABS, MEAN, NONFINITE, NORM, ZEROS, check_out

CHUNK = 1 << 20  # elements widened at once: 8 MiB of float64
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
        with torch.no_grad():
            flats, implied = {}, {}
            for row, tensor in enumerate(tensors):
                if tensor is None:
                    continue
                flat, zeros = flatten(tensor)
                if flat is not None:
                    flats[row], implied[row] = _readable(flat), zeros
            fill_rows(flats, out)
        for row, zeros in implied.items():
            add_implied_zeros(out[row], flats[row].numel(), zeros)


def fill_rows(flats: dict[int, torch.Tensor], out: np.ndarray) -> None:
    """Fill the rows of `out` named by the keys from one-dimensional tensors of any real dtype."""
    chunks = {row: flat.split(CHUNK) for row, flat in flats.items() if flat.numel()}
    first = _fetch([_quick(chunk) for row in chunks for chunk in chunks[row]])
    bounds = np.cumsum([0, *(len(pieces) for pieces in chunks.values())])
    parts = dict(zip(chunks, (first[a:b] for a, b in pairwise(bounds)), strict=True))
    for row, flat in flats.items():
        out[row] = 0.0
        if flat.numel():
            faithful = _combine(parts[row], flat.numel(), out[row])
            if not faithful:
                _careful(flat, out[row])


def add_implied_zeros(row: np.ndarray, stored: int, implied: int) -> None:
    """Correct a row of `stored` elements for `implied` more elements that are zero."""
    if implied:
        finite = stored - row[NONFINITE]
        row[MEAN] *= finite / (finite + implied)
        row[ZEROS] += implied


def _readable(flat: torch.Tensor) -> torch.Tensor:
    """Bring a tensor to a dtype and device on which float64 arithmetic and `aminmax` exist."""
    if flat.device.type == "mps":  # has no float64
        flat = flat.cpu()
    if flat.dtype in NATIVE_REALS or flat.is_complex():
        return flat
    return flat.to(torch.float64)


def _quick(chunk: torch.Tensor) -> torch.Tensor:
    """[sum of squares, min, max, sum, nonzeros] of a chunk as float64 [5], on its device."""
    if chunk.is_complex():  # rare: always read carefully
        return torch.full((5,), torch.nan, dtype=torch.float64, device=chunk.device)
    wide = chunk.to(torch.float64)
    low, high = torch.aminmax(chunk)
    parts = (wide.dot(wide), low.double(), high.double(), wide.sum(), chunk.count_nonzero().double())
    return torch.stack(parts)


def _fetch(parts: list[torch.Tensor]) -> np.ndarray:
    """Copy [5] tensors to the host as one array [n, 5], with one transfer per device."""
    rows = np.empty((len(parts), 5))
    for device in {part.device for part in parts}:
        where = [i for i, part in enumerate(parts) if part.device == device]
        rows[where] = torch.stack([parts[i] for i in where]).cpu().numpy()
    return rows


def _combine(parts: np.ndarray, count: int, row: np.ndarray) -> bool:
    """Make a row of the chunks' results; False where it needs the careful reading."""
    with np.errstate(over="ignore", invalid="ignore"):
        square, _, _, total, nonzeros = parts.sum(axis=0)
        largest = np.abs(parts[:, 1:3]).max()
    row[NORM], row[MAXABS], row[MEAN], row[ZEROS] = (
        np.sqrt(square), largest, total / count, count - nonzeros
    )
    low, high = FAITHFUL
    return bool(np.isfinite(largest) and (largest == 0.0 or low < square < high))


def _careful(flat: torch.Tensor, row: np.ndarray) -> None:
    """Fill a row whatever the values: finite elements only, scaled by the largest component."""
    scale = max(float(_components(piece).abs().max()) for piece in flat.split(CHUNK))
    square = total = nonfinite = zeros = largest = 0.0
    for piece in flat.split(CHUNK):
        scaled = _components(piece) / (scale or 1.0)
        square += float(scaled.square().sum())
        largest = max(largest, float(torch.linalg.vector_norm(scaled, dim=1).max()))
        total += float(scaled[:, 0].sum())
        nonfinite += float((~torch.isfinite(piece)).sum())
        zeros += float((piece == 0).sum())
    finite = flat.numel() - nonfinite
    row[NORM], row[MAXABS] = scale * math.sqrt(square), scale * largest
    row[MEAN] = total / finite * scale if finite else 0.0
    row[NONFINITE], row[ZEROS] = nonfinite, zeros


def _components(piece: torch.Tensor) -> torch.Tensor:
    """Real, or real and imaginary, parts in float64 [n, 1 or 2]; zero where not finite."""
    finite = torch.isfinite(piece)[:, None]
    parts = torch.view_as_real(piece) if piece.is_complex() else piece[:, None]
    return torch.where(finite, parts.to(torch.float64), 0.0)
