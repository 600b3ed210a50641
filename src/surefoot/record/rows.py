"""The rows of a training in buckets: streamed, so that memory does not depend on its length."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from surefoot.record import blob
from surefoot.record.conform import valid
from surefoot.record.schema import Steps
from surefoot.record.series import Series

_SERIES_BYTES = 128 << 20
_PIECE_BYTES, _PIECE_ROWS = 4 << 20, 4096


def read_series(connection: sqlite3.Connection, table: Steps, buckets: int) -> dict[str, Series]:
    """Every family that holds any row, in at most `buckets` buckets, evenly over the steps."""
    return read_until(connection, table, buckets)[0]


def read_until(
    connection: sqlite3.Connection, table: Steps, buckets: int
) -> tuple[dict[str, Series], int]:
    """`read_series`, and the id of the last row that it holds, to go on after."""
    reached = 0
    first, last = ends(connection, table)
    families = {n: Family(table.families[n], b) for n, b in shares(table, buckets).items()}
    kinds = {family.buckets for family in families.values()}
    for after, steps, blobs in pieces(connection, table, last):
        reached = after
        places = {b: places_of(steps, first, last, b) for b in kinds}
        for name, of_family in zip(table.families, blobs, strict=True):
            families[name].extend(places[families[name].buckets], steps, of_family)
    used = [name for name in table.families if families[name].used]
    return {name: families[name].series() for name in used}, reached


def shares(table: Steps, buckets: int) -> dict[str, int]:
    """The buckets of each family: what the narrow ones leave of the room is for the wide ones."""
    found, room = {}, _SERIES_BYTES
    by_width = sorted(table.families.items(), key=lambda family: family[1])
    for left, (name, columns) in zip(range(len(by_width), 0, -1), by_width, strict=True):
        found[name] = max(min(buckets, room // (12 * columns * left)), 1)
        room -= 12 * columns * found[name]
    return found


def places_of(steps: np.ndarray, first: int, last: int, buckets: int) -> np.ndarray:
    """The bucket [0, buckets) of each step, evenly over the run.

    What the writer adds while we read falls into the last one.
    """
    passed = steps.astype(np.float64) - first  # which no step of a stranger's can overflow
    return np.clip(passed * buckets // (float(last) - first + 1), 0, buckets - 1).astype(np.intp)


def ends(connection: sqlite3.Connection, table: Steps) -> tuple[int, int]:
    """The first and the last step that are in the table now, (0, 0) of an empty one."""
    found = [
        connection.execute(f"SELECT step FROM {table.name} ORDER BY id {way} LIMIT 1").fetchone()
        for way in ("ASC", "DESC")
    ]
    first, last = (valid(end[0], int) if end else 0 for end in found)
    return first, max(first, last)


def pieces(
    connection: sqlite3.Connection, table: Steps, last: int, after: int = 0
) -> Iterator[tuple[int, np.ndarray, list[tuple[Any, ...]]]]:
    """(last id, steps [B], for each family its B blobs) after an id up to a step, in short reads.

    A long one would keep the log from ending. Between two of them the writer may merge buckets; the
    merged one has the id of its last row, so going on after an id meets every step at least once.
    """
    limit = min(max(_PIECE_BYTES // (12 * table.columns + 64), 1), _PIECE_ROWS)
    while rows := connection.execute(table.select(), (after, limit)).fetchall():
        identities, steps, counts, *blobs = zip(*rows, strict=True)
        ids = integers(identities)
        if ids[0] <= after or (ids[1:] <= ids[:-1]).any() or (integers(counts) < 0).any():
            raise ValueError("the rows are out of order")
        after = int(ids[-1])
        yield after, integers(steps), blobs
        if len(rows) < limit or steps[-1] > last:
            return


def integers(values: tuple[Any, ...]) -> np.ndarray:
    """Values as SQLite gives them, if all are integers; raises ValueError otherwise."""
    whole = set(map(type, values)) == {int}
    return np.array(values if whole else [valid(value, int) for value in values], np.int64)


class Family:
    """The buckets of one family while they are gathered; a place [0, buckets) makes a bucket.

    used: buckets begun.
    """

    __slots__ = ("_columns", "_place", "_single", "_stack", "_steps", "buckets", "used")

    def __init__(self, columns: int, buckets: int) -> None:
        self._columns, self.buckets = columns, buckets
        self._stack = np.empty((3, buckets, columns), blob.FLOAT)  # no memory until it is filled
        self._steps = np.empty(buckets, np.int64)
        self._place = -1  # of the newest bucket
        self._single = True  # every bucket is one row
        self.used = 0

    def extend(self, places: np.ndarray, steps: np.ndarray, blobs: tuple[Any, ...]) -> None:
        """Add rows; a blob of None was not measured, and places must not decrease."""
        at = [k for k, data in enumerate(blobs) if data is not None]
        if not at:
            return
        measured: Sequence[Any] = blobs
        if len(at) < len(blobs):
            places, steps, measured = places[at], steps[at], [blobs[k] for k in at]
        places = np.maximum.accumulate(np.maximum(places, self._place))
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        merged = blob.merge(blob.unpack(measured, self._columns), starts)
        ends = steps[np.append(starts[1:], len(steps)) - 1]
        if self.used and places[0] == self._place:  # the piece goes on with the newest bucket
            low, high, last = self._stack[:, self.used - 1]
            np.fmin(low, merged[0, 0], out=low)
            np.fmax(high, merged[1, 0], out=high)
            last[:], self._steps[self.used - 1] = merged[2, 0], ends[0]
            merged, ends = merged[:, 1:], ends[1:]
            self._single = False
        end = self.used + len(ends)
        self._stack[:, self.used : end], self._steps[self.used : end] = merged, ends
        self._single = self._single and (merged.strides[0] == 0 or not merged.size)
        self._place, self.used = places[-1], end

    def series(self) -> Series:
        """What was gathered."""
        low, high, last = self._stack[:, : self.used]
        steps = self._steps[: self.used]
        return Series(steps, last, last, last) if self._single else Series(steps, low, high, last)
