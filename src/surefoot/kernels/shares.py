"""A pass shared out among threads, where there is so much to read that it pays.

The threads are at most as many as PyTorch's own, which have nothing to do while an optimizer's
hooks run; a training held to one thread (as under torchrun) is read on one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Thread

import numpy as np
import torch

from surefoot.kernels.addresses import ITEM_BYTES, Addresses
from surefoot.kernels.statistics import MAXABS, MEAN, NONFINITE, NORM, ZEROS

_WORTH = 16 << 20  # bytes for each thread: about a millisecond
_PIECE = 1 << 20  # bytes that stay together, a multiple of what a kernel reads as one block
_MOST = 8  # threads: more than these seldom read faster

# of (how many, addresses, counts, kinds, rows), as surefoot_parameter_pass takes them
Read = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Tensors cut into pieces: whose each is, where it begins in bytes, and how much it holds.

    bounds: the pieces of each thread lie between two of them; starts: the first of each tensor.
    """

    counts: np.ndarray
    kinds: np.ndarray
    owners: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    bounds: list[int]
    starts: np.ndarray
    rows: np.ndarray


class Shares:
    """How one pass is shared out, as long as what it reads has the same sizes.

    Threads live for one call: to start one takes a twentieth of what it reads in, and none is left
    for a forked child to miss or for the interpreter to wait for.
    """

    def __init__(self) -> None:
        self._plan: _Plan | None = None

    def run(self, read: Read, addresses: Addresses, count: int, out: np.ndarray) -> None:
        """Fill `out` [count, 5] by `read`, on as many threads as pay."""
        threads = _worth(addresses.bytes)
        if threads < 2:
            read(count, *addresses.arguments, _pointer(out))
            return
        plan = self._planned(addresses, count, threads)
        places = addresses.places(count)[plan.owners] + plan.offsets
        kinds = plan.kinds[plan.owners]
        at = (_pointer(places), _pointer(plan.lengths), _pointer(kinds), _pointer(plan.rows))
        sizes = (8, plan.lengths.itemsize, kinds.itemsize, plan.rows.strides[0])
        spans = list(zip(plan.bounds, plan.bounds[1:], strict=False))
        parts = [
            (end - begin, *(a + begin * s for a, s in zip(at, sizes, strict=True)))
            for begin, end in spans
        ]
        _together([partial(read, *part) for part in parts])
        _fold(plan, out)

    def _planned(self, addresses: Addresses, count: int, threads: int) -> _Plan:
        counts, kinds = addresses.counts[:count], addresses.kinds[:count]
        plan = self._plan
        if plan is not None and len(plan.bounds) == threads + 1:
            same = np.array_equal(plan.counts, counts) and np.array_equal(plan.kinds, kinds)
            if same:
                return plan
        self._plan = plan = _cut(counts.copy(), kinds.copy(), threads)
        return plan


def _together(parts: list[Callable[[], None]]) -> None:
    """Run the parts side by side, the first one here; raises what the first to fail has raised."""
    failures: list[BaseException] = []

    def attempt(part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=attempt, args=(part,), daemon=True) for part in parts[1:]]
    for thread in threads:
        thread.start()
    attempt(parts[0])
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _worth(size: int) -> int:
    """How many threads pay for so many bytes."""
    if size < 2 * _WORTH:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(torch.get_num_threads(), cores or 1, size // _WORTH, _MOST)


def _cut(counts: np.ndarray, kinds: np.ndarray, threads: int) -> _Plan:
    """Pieces of at most _PIECE bytes in the tensors' order, about as many bytes for each thread."""
    items = np.where(kinds >= 0, ITEM_BYTES[kinds], 0)
    sizes = counts * items
    pieces = np.maximum(1, -(-sizes // _PIECE))
    owners = np.repeat(np.arange(len(counts)), pieces)
    starts = np.concatenate([[0], np.cumsum(pieces)[:-1]])
    offsets = (np.arange(len(owners)) - starts[owners]) * _PIECE
    held = np.minimum(sizes[owners] - offsets, _PIECE)
    lengths = np.where(kinds[owners] >= 0, held // np.maximum(items[owners], 1), 0)
    ends = np.cumsum(np.maximum(held, 0))
    inner = np.searchsorted(ends, ends[-1] * np.arange(1, threads) / threads) + 1
    return _Plan(
        counts,
        kinds,
        owners,
        offsets.astype(np.uint64),
        lengths.astype(np.int64),
        [0, *inner.tolist(), len(owners)],
        starts,
        np.empty((len(owners), 5)),
    )


def _fold(plan: _Plan, out: np.ndarray) -> None:
    """The row of each tensor from those of its pieces."""
    rows, starts = plan.rows, plan.starts
    finite = plan.lengths - rows[:, NONFINITE]
    out[:, NORM] = np.hypot.reduceat(rows[:, NORM], starts)
    out[:, MAXABS] = np.maximum.reduceat(rows[:, MAXABS], starts)
    for column in (NONFINITE, ZEROS):
        out[:, column] = np.add.reduceat(rows[:, column], starts)
    # Weighted shares of the mean rather than sums, which could overflow.
    whole = np.add.reduceat(finite, starts)
    weights = finite / np.maximum(whole, 1)[plan.owners]
    out[:, MEAN] = np.add.reduceat(rows[:, MEAN] * weights, starts)


def _pointer(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
