"""A bucket's values as bytes: float32, little-endian, one row or low, high and last.

A family of C columns takes 4 C bytes where low, high and last agree (one step, always) and 12 C
bytes where steps were merged. In memory B buckets of one family are always a stack [3, B, C]:
low, high and last. On their way to the file rows may still be float64: 8 C bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FLOAT = np.dtype("<f4")
DOUBLE = np.dtype("<f8")
_LARGEST = float(np.finfo(np.float32).max)
_WIDE = 256  # columns from which numpy reduces each bucket on its own faster: by up to ten times


def raw(row: np.ndarray) -> bytes:
    """A row of any real dtype as float32 or float64 bytes, in as little time as can be.

    The trainer waits for this, and on caches that its own work has just filled every operation
    costs tens of microseconds: the rest is left to `narrow`, in the writer's thread.
    """
    if row.dtype is FLOAT or row.dtype is DOUBLE:
        return row.tobytes()
    return np.asarray(row, DOUBLE).tobytes()


def narrow(blobs: Sequence[bytes | None], columns: int) -> list[bytes | None]:
    """Raw blobs of one family with those of float64 made float32; other blobs stay as they are.

    A finite value beyond float32 becomes its largest (see `clipped`).

    >>> (data,) = narrow([raw(np.array([1e200, -np.inf, 0.5]))], 3)
    >>> np.frombuffer(data, "<f4")
    array([3.4028235e+38,          -inf, 5.0000000e-01], dtype=float32)
    """
    wide = {k: data for k, data in enumerate(blobs) if data and len(data) == 8 * columns}
    if not wide:
        return list(blobs)
    rows = np.frombuffer(b"".join(wide.values()), DOUBLE)
    with np.errstate(all="ignore"):
        small = clipped(rows).astype(FLOAT).reshape(-1, columns)
    done = dict(zip(wide, small, strict=True))
    return [done[k].tobytes() if k in done else data for k, data in enumerate(blobs)]


def clipped(rows: np.ndarray) -> np.ndarray:
    """The rows with no finite value beyond float32's largest; NaN and inf stay what they are.

    For inf means that the training itself overflowed, and must not come from keeping its numbers.
    """
    return np.where(np.isinf(rows), rows, np.clip(rows, -_LARGEST, _LARGEST))


def unpack(blobs: Sequence[Any], columns: int) -> np.ndarray:
    """The stack [3, B, C] of stored blobs, not writable; raises ValueError for any other value.

    Where every blob is a single row its three parts share memory (stride 0).
    """
    single, merged = 4 * columns, 12 * columns
    sizes = set(map(len, blobs)) if set(map(type, blobs)) == {bytes} else {0}
    if not sizes <= {single, merged}:
        raise ValueError(f"expected {single} or {merged} bytes of float32, got {sizes}")
    if len(sizes) == 2:
        stack = np.empty((3, len(blobs), columns), FLOAT)
        for size in sizes:
            at = [k for k, data in enumerate(blobs) if len(data) == size]
            stack[:, at] = unpack([blobs[k] for k in at], columns)
        return stack
    whole = np.frombuffer(b"".join(blobs), FLOAT)
    if sizes == {single}:
        return np.broadcast_to(whole.reshape(-1, columns), (3, len(blobs), columns))
    return whole.reshape(-1, 3, columns).swapaxes(0, 1)


def pack(bucket: np.ndarray) -> bytes:
    """The shortest blob that keeps one bucket [3, C]."""
    low, high, last = (part.tobytes() for part in bucket)
    return last if low == high == last else low + high + last


def merge(stack: np.ndarray, starts: Sequence[int] | np.ndarray = (0,)) -> np.ndarray:
    """Merge neighbours in a stack [3, B, C]: one bucket per start, up to the next start.

    The rule of `series.Thinned`: lowest and highest of what was measured (NaN is not), last as it
    is.
    """
    if len(starts) == stack.shape[1]:
        return stack
    ends = [*starts[1:], stack.shape[1]]
    merged = np.empty((3, len(starts), stack.shape[2]), FLOAT)
    merged[2] = stack[2, np.array(ends) - 1]
    with np.errstate(all="ignore"):
        for part, extreme in enumerate((np.fmin, np.fmax)):
            if stack.shape[2] < _WIDE:
                extreme.reduceat(stack[part], starts, axis=0, out=merged[part])
                continue
            for k, rows in enumerate(map(slice, starts, ends)):
                extreme.reduce(stack[part, rows], axis=0, out=merged[part, k])
    return merged
