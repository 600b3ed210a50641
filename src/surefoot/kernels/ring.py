"""Rows of statistics step by step, handed out later so that nobody waits for the device.

`launch` only enqueues: the rows of a step are written to a place on the device, and when all places
have had their turn they are copied to the host together, asynchronously. `poll` hands out the rows
whose copies are done.

>>> import torch
>>> from surefoot.kernels import make_ring
>>> ring = make_ring(1, torch.device("cpu"), length=2)
>>> for value in (3.0, 4.0, 5.0):
...     ring.launch([torch.tensor([value])])
>>> [(step, rows[0, 0].item()) for step, rows in ring.poll()]
[(0, 3.0), (1, 4.0)]
>>> [(step, rows[0, 0].item()) for step, rows in ring.drain()]
[(2, 5.0)]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from surefoot.kernels.availability import give_up
from surefoot.kernels.rows import Rows, at, capturing
from surefoot.kernels.statistics import Pass


class Mark(Protocol):
    """A point in a device's work, as torch.cuda.Event is."""

    def query(self) -> bool:
        """Whether the device has passed it; never waits."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...


class Writer(Protocol):
    """What writes the rows of tensors at the next place of `Rows` on its device."""

    @property
    def device(self) -> torch.device: ...

    def launch(self, tensors: Sequence[torch.Tensor | None], rows: Rows) -> None: ...


class HostWriter:
    """Writes what a pass measures, at once; for the CPU, and where Triton does not serve."""

    device = torch.device("cpu")

    def __init__(self, measure: Pass) -> None:
        self._pass = measure

    def launch(self, tensors: Sequence[torch.Tensor | None], rows: Rows) -> None:
        step = int(rows.steps)
        place = step % len(rows.values)
        self._pass(tensors, rows.values[place].numpy())
        rows.stamps[place] = step
        rows.steps += 1


class Passed:
    """A mark in work that is done by the time it is enqueued."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


def mark(device: torch.device) -> Mark:
    """Return a mark after what the current stream of the device was given so far."""
    if device.type != "cuda":
        return Passed()
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


class _Copy(NamedTuple):
    """Rows on their way to the host, float64 [length, height, 5], and their steps [length]."""

    values: torch.Tensor
    stamps: torch.Tensor
    done: Mark


class Ring:
    """Statistics of `count` tensors a step, written now and handed out in order later."""

    def __init__(
        self,
        count: int,
        length: int,
        writer: Writer,
        fallback: Writer,
        mark: Callable[[torch.device], Mark] = mark,
    ) -> None:
        """`fallback` takes over if `writer` fails, and must wait for nothing but the tensors."""
        if count < 1 or length < 1:
            raise ValueError(f"expected at least one tensor and one place, got {count}, {length}")
        self._count = count
        self._length = length
        self._writer = writer
        self._fallback = fallback
        self._mark = mark
        self._rows = Rows.on(writer.device, length, count)
        self._fresh = 0  # launches since the last copy
        self._last = -1  # the last step that was handed out
        self._stream: object = None
        self._copies: deque[_Copy] = deque()

    def launch(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Enqueue the statistics of one step's tensors; each `length` of them go to the host.

        Within a CUDA graph's capture it becomes part of the graph: each replay is a step then, and
        `flush` must be called at least every `length` of them, or steps are missing.

        Raises:
            ValueError: there are more or fewer tensors than the ring was made for.
        """
        if len(tensors) != self._count:
            raise ValueError(f"expected {self._count} tensors, got {len(tensors)}")
        self._follow()
        try:
            self._writer.launch(tensors, self._rows)
        except Exception as error:
            if self._writer is self._fallback or capturing(self._writer.device):
                raise
            give_up(error)
            self._fall_back()
            self._writer.launch(tensors, self._rows)
        if not capturing(self._writer.device):
            self._fresh += 1
            if self._fresh == self._length:
                self.flush()

    def flush(self) -> None:
        """Enqueue the copy of the rows to the host; not within a capture, which may hold none."""
        if capturing(self._writer.device):
            return
        self._follow()
        with at(self._writer.device):
            values, stamps = self._to_host(self._rows.values), self._to_host(self._rows.stamps)
            self._copies.append(_Copy(values, stamps, self._mark(self._writer.device)))
        self._fresh = 0

    def poll(self) -> list[tuple[int, np.ndarray]]:
        """Return the steps whose rows have arrived, in order, each once; never waits.

        A step is its number, from 0, and its rows, float64 [count, 5].
        """
        arrived: list[tuple[int, np.ndarray]] = []
        if capturing(self._writer.device):  # CUDA forbids even to ask
            return arrived
        while self._copies and self._copies[0].done.query():
            copy = self._copies.popleft()
            steps = copy.stamps.numpy()
            for place in np.argsort(steps):
                if steps[place] > self._last:
                    self._last = int(steps[place])
                    arrived.append((self._last, copy.values[place].numpy().copy()))
        return arrived

    def drain(self) -> list[tuple[int, np.ndarray]]:
        """Wait for all that was launched and return it: at the end of a run."""
        self.flush()
        for copy in self._copies:
            copy.done.synchronize()
        return self.poll()

    def _follow(self) -> None:
        """Let the current stream wait for the one that used the rows before it."""
        device = self._writer.device
        if device.type != "cuda" or capturing(device):
            return
        stream = torch.cuda.current_stream(device)
        if isinstance(self._stream, torch.cuda.Stream) and stream != self._stream:
            stream.wait_stream(self._stream)
            for tensor in (self._rows.values, self._rows.stamps, self._rows.steps):
                tensor.record_stream(stream)
        self._stream = stream

    def _fall_back(self) -> None:
        """Go on from the same step with rows on the host."""
        self.flush()
        step = int(self._rows.steps)
        self._writer = self._fallback
        self._rows = Rows.on(self._writer.device, self._length, self._count, step)

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "cuda":
            return tensor.clone()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return host.copy_(tensor, non_blocking=True)
