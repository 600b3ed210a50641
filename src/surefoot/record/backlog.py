"""What waits to be written: a bounded queue that melts detail instead of blocking or dropping.

While there is room every step waits as a row of its own. When the disk falls behind and the room
is used up, a training's newest rows melt into one bucket of their low, high and last, until the
writer comes back; so a spike survives any stall, and memory does not grow.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.record import blob
from surefoot.record.schema import Steps

_OVERHEAD = 256  # bytes of Python objects around one item, so that small rows are bounded too


@dataclass(slots=True)
class Row:
    """One bucket of a training: `blobs` in the order of its families, None where not measured.

    `rows` counts the steps that it holds; several puts of one step are one.
    """

    training: int
    step: int
    rows: int
    blobs: list[bytes | None]
    size: int


@dataclass(frozen=True, slots=True)
class Text:
    """Values of one row of a small table; see `schema` for each table's columns."""

    table: str
    values: tuple[Any, ...]
    size: int
    steps: Steps | None = None  # with a new training, the table for its steps


Item = Row | Text


class Backlog:
    """A queue of at most `limit` bytes between the trainer and the writer thread.

    The lock is held for microseconds and never during I/O; it may be taken again by the thread
    that has it, because a signal handler may end the run in the middle of a put.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._queue: deque[Item] = deque()
        self._newest: dict[int, Row] = {}  # the row of each training that waits last
        self._melting: dict[int, _Bucket] = {}
        self._size = 0
        self._columns: dict[int, list[int]] = {}
        self.melted: dict[int, int] = {}  # steps per training that lost their own row

    @property
    def pressing(self) -> bool:
        """Whether the writer had better come at once."""
        return self._size > self._limit // 2

    def declare(self, training: int, columns: list[int]) -> None:
        """Tell the columns of a training's families, before its first row."""
        self._columns[training] = columns

    def row(self, training: int, step: int, blobs: list[bytes | None], size: int) -> None:
        """Add one step's raw row of `size` bytes, alone or, under pressure, to what melts."""
        size += _OVERHEAD
        with self._lock:
            if training in self._melting:
                steps = self._melting[training].add(step, blobs)
                self.melted[training] = self.melted.get(training, 0) + steps
                return
            newest = self._newest.get(training)
            if newest is not None and newest.step == step and _fill(newest.blobs, blobs):
                newest.size += size
                self._size += size
            elif self._size + size > self._limit:
                self._melting[training] = _Bucket(training, self._columns[training])
                self._melting[training].add(step, blobs)
            else:
                row = Row(training, step, 1, blobs, size)
                self._newest[training] = row
                self._queue.append(row)
                self._size += size

    def text(self, item: Text) -> bool:
        """Add a small row; False when even twice the room is used up and it had to be dropped."""
        with self._lock:
            if self._size + item.size > 2 * self._limit and item.steps is None:
                return False
            self._queue.append(item)
            self._size += item.size
            return True

    def take(self) -> deque[Item]:
        """Everything that waits, oldest first, and an empty backlog."""
        with self._lock:
            batch, self._queue = self._queue, deque()
            batch.extend(bucket.row() for bucket in self._melting.values())
            self._newest, self._melting = {}, {}
            self._size = 0
        return batch


def _fill(blobs: list[bytes | None], more: list[bytes | None]) -> bool:
    """Add families that are still missing; False, and nothing done, if one is there already."""
    if any(b is not None and a is not None for a, b in zip(blobs, more, strict=True)):
        return False
    for i, data in enumerate(more):
        if data is not None:
            blobs[i] = data
    return True


class _Bucket:
    """Rows melted into one: `stacks` holds low, high and last [3, C] of each family."""

    __slots__ = ("_columns", "_rows", "_stacks", "_step", "_training")

    def __init__(self, training: int, columns: list[int]) -> None:
        self._training = training
        self._columns = columns
        self._step: int | None = None
        self._rows = 0
        self._stacks: list[np.ndarray | None] = [None] * len(columns)

    def add(self, step: int, blobs: list[bytes | None]) -> int:
        """Melt a row in; returns how many steps that adds, 0 for more of the same step."""
        for i, (raw, columns) in enumerate(zip(blobs, self._columns, strict=True)):
            (data,) = blob.narrow([raw], columns)
            if data is None:
                continue
            row = np.frombuffer(data, blob.FLOAT)
            stack = self._stacks[i]
            if stack is None:
                self._stacks[i] = np.repeat(row[None], 3, axis=0)
                continue
            np.fmin(stack[0], row, out=stack[0])
            np.fmax(stack[1], row, out=stack[1])
            stack[2] = row
        new = int(step != self._step)
        self._step = step
        self._rows += new
        return new

    def row(self) -> Row:
        blobs = [None if stack is None else blob.pack(stack) for stack in self._stacks]
        size = _OVERHEAD + sum(len(data) for data in blobs if data is not None)
        return Row(self._training, self._step or 0, self._rows, blobs, size)
