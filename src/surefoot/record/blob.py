"""A bucket's values as bytes: float32, little-endian, one row or low, high and last.

A family of C columns takes 4 C bytes where low, high and last agree (one step, always) and 12 C
bytes where steps were merged. In memory B buckets of one family are always a stack [3, B, C]:
low, high and last. On their way to the file rows may still be float64: 8 C bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLOAT = np.dtype("<f4")
DOUBLE = np.dtype("<f8")
_LARGEST = float(np.finfo(np.float32).max)


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

    A finite value beyond float32 becomes its largest and not inf, for inf means that the training
    itself overflowed; NaN and inf stay what they are.

    >>> (data,) = narrow([raw(np.array([1e200, -np.inf, 0.5]))], 3)
    >>> np.frombuffer(data, "<f4")
    array([3.4028235e+38,          -inf, 5.0000000e-01], dtype=float32)
    """
    wide = {k: data for k, data in enumerate(blobs) if data and len(data) == 8 * columns}
    if not wide:
        return list(blobs)
    rows = np.frombuffer(b"".join(wide.values()), DOUBLE)
    with np.errstate(all="ignore"):
        clipped = np.where(np.isinf(rows), rows, np.clip(rows, -_LARGEST, _LARGEST))
        small = clipped.astype(FLOAT).reshape(-1, columns)
    done = dict(zip(wide, small, strict=True))
    return [done[k].tobytes() if k in done else data for k, data in enumerate(blobs)]


def unpack(blobs: Sequence[object], columns: int) -> np.ndarray:
    """The stack [3, B, C] of stored blobs, not writable; raises ValueError for any other value.

    Where every blob is a single row its three parts share memory (stride 0).
    """
    known = [data for data in blobs if isinstance(data, bytes)]
    sizes = {len(data) for data in known}
    single, merged = 4 * columns, 12 * columns
    if not known or len(known) < len(blobs) or not sizes <= {single, merged}:
        raise ValueError(f"expected {single} or {merged} bytes of float32, got {sizes}")
    if len(sizes) == 2:
        return np.concatenate([unpack([data], columns) for data in known], axis=1)
    whole = np.frombuffer(b"".join(known), FLOAT)
    if sizes == {single}:
        return np.broadcast_to(whole.reshape(-1, columns), (3, len(known), columns))
    return whole.reshape(-1, 3, columns).swapaxes(0, 1)


def pack(bucket: np.ndarray) -> bytes:
    """The shortest blob that keeps one bucket [3, C]."""
    low, high, last = (part.tobytes() for part in bucket)
    return last if low == high == last else low + high + last


def merge(stack: np.ndarray, starts: Sequence[int] = (0,)) -> np.ndarray:
    """Merge neighbours in a stack [3, B, C]: one bucket per start, up to the next start.

    The rule of `series.Thinned`: lowest and highest of what was measured (NaN is not), last as it
    is.
    """
    if len(starts) == stack.shape[1]:
        return stack
    ends = [start - 1 for start in (*starts[1:], stack.shape[1])]
    with np.errstate(all="ignore"):
        low = np.fmin.reduceat(stack[0], starts, axis=0)
        high = np.fmax.reduceat(stack[1], starts, axis=0)
    return np.stack([low, high, stack[2][ends]])
