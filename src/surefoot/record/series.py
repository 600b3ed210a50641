"""A time series of bounded size: long runs are thinned, but no spike is ever lost.

A full series merges its buckets two by two, keeping the lowest, the highest and the last value of
each column, so that a single bad step stays visible however long the run becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.record import blob


@dataclass(frozen=True, slots=True)
class Series:
    """T buckets of C columns: `low`, `high` and `last` are [T, C]; `steps` [T] ends each bucket.

    Where nothing was thinned the three are equal. NaN means *not measured* in a column.
    """

    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def columns(self, pick: slice) -> Series:
        """The same buckets with some of the columns only."""
        return Series(self.steps, self.low[:, pick], self.high[:, pick], self.last[:, pick])

    @staticmethod
    def of_blobs(steps: np.ndarray, blobs: Sequence[Any], columns: int) -> Series:
        """The buckets of rows as the file keeps them; a blob of None was not measured."""
        at = [k for k, data in enumerate(blobs) if data is not None]
        if not at:
            return Series.empty(columns)
        low, high, last = blob.unpack([blobs[k] for k in at], columns)
        single = low.ctypes.data == last.ctypes.data
        return Series(steps[at], *((last, last, last) if single else (low, high, last)))

    @staticmethod
    def empty(columns: int) -> Series:
        """A series of no steps, for families that were never measured."""
        blank = np.empty((0, columns), np.float32)
        return Series(np.empty(0, np.int64), blank, blank, blank)


def joined(old: Series | None, new: Series) -> Series:
    """Two series of the same columns, one after the other."""
    if old is None or not len(old):
        return new
    steps = np.concatenate([old.steps, new.steps])
    last = np.concatenate([old.last, new.last])
    if old.low is old.last and new.low is new.last:
        return Series(steps, last, last, last)
    low, high = np.concatenate([old.low, new.low]), np.concatenate([old.high, new.high])
    return Series(steps, low, high, last)


def evenly(series: Series, buckets: int) -> Series:
    """The series in at most so many buckets, evenly over its steps, each with its extremes.

    >>> steps, x = np.arange(6), np.array([[0], [9], [0], [0], [0], [1]], np.float32)
    >>> thin = evenly(Series(steps, x, x, x), 2)
    >>> thin.steps, thin.high.ravel(), thin.last.ravel()
    (array([2, 5]), array([9., 1.], dtype=float32), array([0., 1.], dtype=float32))
    """
    if len(series) <= buckets:
        return series
    steps = series.steps
    passed = steps.astype(np.float64) - float(steps.min())  # which no stranger's step overflows
    places = np.maximum.accumulate((passed * buckets // (passed.max() + 1)).astype(np.intp))
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    merged = blob.merge(np.stack([series.low, series.high, series.last]), starts)
    return Series(steps[np.append(starts[1:], len(steps)) - 1], *merged)


class Thinned:
    """An append-only series of at most `capacity` buckets of `columns` float32 columns.

    Memory is `capacity * columns * 12` bytes, allocated once. Appending is O(columns), merging
    happens once every `capacity / 2` buckets. Rows are narrowed as in the record (`blob.clipped`).

    >>> s = Thinned(columns=1, capacity=4)
    >>> for step, x in enumerate([0.0, 9.0, 0.0, 0.0, 0.0, 0.0]):
    ...     s.append(step, np.array([x]))
    >>> s.series().high.max(), len(s.series()) <= 4
    (np.float32(9.0), True)
    """

    __slots__ = ("_filled", "_infinite", "_row", "_stack", "_steps", "_used", "_width")

    def __init__(self, columns: int, capacity: int = 512) -> None:
        if capacity < 2 or capacity % 2:
            raise ValueError(f"expected an even capacity of at least 2, got {capacity}")
        self._stack = np.empty((3, capacity, columns), np.float32)  # low, high, last
        self._stack.fill(np.nan)  # a page touched for the first time costs as much as the row
        self._row, self._infinite = np.empty(columns, np.float32), np.empty(columns, bool)
        self._steps = np.zeros(capacity, np.int64)
        self._used = 0  # buckets begun
        self._filled = 0  # rows in the newest bucket
        self._width = 1  # rows that a full bucket holds

    def append(self, step: int, row: np.ndarray) -> None:
        """Add one step's row [C]; steps must not decrease."""
        narrow = self._row
        narrow[:] = row
        if np.isinf(narrow, out=self._infinite).any():
            narrow[:] = blob.clipped(row)
        if self._used == 0 or self._filled == self._width:
            if self._used == len(self._steps):
                self._merge()
            self._stack[:, self._used] = narrow
            self._used += 1
            self._filled = 1
        else:
            low, high, last = self._stack[:, self._used - 1]
            np.fmin(low, narrow, out=low)
            np.fmax(high, narrow, out=high)
            last[:] = narrow
            self._filled += 1
        self._steps[self._used - 1] = step

    def _merge(self) -> None:
        low, high, last = self._stack
        half = self._used // 2
        low[:half] = np.fmin(low[0::2], low[1::2])
        high[:half] = np.fmax(high[0::2], high[1::2])
        last[:half] = last[1::2]
        self._steps[:half] = self._steps[1::2]
        self._used = half
        self._width *= 2
        self._filled = self._width

    def newest(self) -> np.ndarray | None:
        """A copy of the latest row [C], None before the first one."""
        return self._stack[2, self._used - 1].copy() if self._used else None

    def series(self) -> Series:
        """A copy of what is held so far."""
        low, high, last = self._stack[:, : self._used].copy()
        return Series(self._steps[: self._used].copy(), low, high, last)
