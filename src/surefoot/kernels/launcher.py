"""The host side of the Triton kernels: what they must know of the tensors, and their launches.

The device holds three things between launches: the table of the tensors (addresses and sizes), the
tensor of each tile, and room for the tiles' partial results. While sizes stay, only the table is
written again: `zero_grad` makes every gradient a new tensor, and what has moved goes over in one
asynchronous copy from pinned memory. Such a launch waits for nothing, allocates nothing on the
device and has the grids of the one before it.

A CUDA graph takes its buffers with it: a replay reads the addresses of its capture and the pinned
copy of them, and the launches after it get buffers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch

from surefoot.kernels.addresses import KINDS, MISSING
from surefoot.kernels.eager import EagerPass, computable
from surefoot.kernels.layout import PLAIN_TYPES, flatten, in_place
from surefoot.kernels.rows import Rows, at, capturing
from surefoot.kernels.statistics import STATISTICS

ADDRESS, STORED, TOTAL, FIRST, USED = range(5)  # lines of the table, as triton.py reads them
REMEMBERED = 4  # lists of tensors that take turns: optimizers, gradients and weights
FOLD_WARPS = 4

# Of each device, the kinds that were tried. What a graph was captured with, for good: nobody tells
# when the last replay has written to it.
_trusted: dict[torch.device, set[int]] = {}
_captured: list[object] = []


@dataclass(slots=True)
class _Found:
    """Tensors as they lie: table [5, n], kinds [n]; what is kept until they are read; odd rows."""

    table: np.ndarray
    kinds: np.ndarray
    kept: list[torch.Tensor]
    odd: list[int]


@dataclass(slots=True, eq=False)
class _Buffers:
    """Tiles dealt to tensors of these kinds and at most these many tiles, on one stream."""

    kinds: np.ndarray  # int8 [n]
    room: np.ndarray  # int64 [n], tiles
    first: np.ndarray  # int64 [n], a tensor's first tile
    launches: list[tuple[int, int, int]]  # kind, first tile, tiles
    table: torch.Tensor  # int64 [5, n]
    owners: torch.Tensor  # int32 [tiles]
    partials: torch.Tensor  # float64 [5, tiles]
    spare: torch.Tensor  # int64 [5, n], pinned: a graph's own copy of the table
    stream: object
    sent: np.ndarray | None = None  # the table as the device has it

    def fit(self, kinds: np.ndarray, used: np.ndarray) -> bool:
        """Whether tensors of these kinds and numbers of tiles can use the tiles as dealt."""
        return (
            len(kinds) == len(self.kinds)
            and bool(np.all((kinds == self.kinds) | (kinds == MISSING)))
            and bool(np.all(used <= self.room))
        )


class Launcher:
    """Writes rows of tensors of one CUDA device; of the CPU in Triton's interpreter.

    Raises:
        ImportError: there is no Triton here.
        RuntimeError: Triton cannot read this device's memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._code = import_module("surefoot.kernels.triton")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if (device.type == "cpu") != self._code.INTERPRETED:
            how = "interprets" if self._code.INTERPRETED else "compiles"
            raise RuntimeError(f"Triton {how} in this process, which does not serve {device}")
        self.device = device
        tiles = [each["TILE"] for each in self._code.FORMATS]
        self._tiles = np.array([*tiles, 1])  # elements a tile by kind, the last of MISSING
        self._eager = EagerPass()
        self._dealt: list[_Buffers] = []  # the one used last comes first

    def launch(self, tensors: Sequence[torch.Tensor | None], rows: Rows) -> None:
        """Enqueue the rows of tensors, at least one, at the next place of `rows`, which has room.

        Waits only for what the kernel cannot read, complex tensors and those of another device.

        Raises:
            RuntimeError: a graph is being captured for which nothing is ready.
            Exception: whatever Triton raises where it does not work.
        """
        with at(self.device), torch.inference_mode(False), torch.no_grad():
            found = self._find(tensors)
            buffers = self._ready(found)
            self._send(found.table, buffers)
            self._run(buffers, rows)
            if found.odd:
                self._patch(tensors, found.odd, rows)
            rows.steps.add_(1)
            if capturing(self.device):
                self._dealt.remove(buffers)
                _captured.extend((buffers, rows))

    def _find(self, tensors: Sequence[torch.Tensor | None]) -> _Found:
        table = np.zeros((5, len(tensors)), np.int64)
        kinds = np.full(len(tensors), MISSING, np.int8)
        table[STORED:FIRST] = MISSING
        there = [tensor for tensor in tensors if tensor is not None]
        if PLAIN_TYPES.issuperset(map(type, there)) and self._here(there):
            lie = in_place(there)
            if lie is not None and KINDS.keys() >= set(lie.dtypes):
                rows = np.flatnonzero([tensor is not None for tensor in tensors])
                table[ADDRESS, rows] = lie.addresses
                table[STORED:FIRST, rows] = lie.sizes
                kinds[rows] = [KINDS[dtype] for dtype in lie.dtypes]
                return _Found(table, kinds, [], [])
        return self._look_closer(tensors, _Found(table, kinds, [], []))

    def _here(self, tensors: Sequence[torch.Tensor]) -> bool:
        return all(tensor.device == self.device for tensor in tensors)

    def _look_closer(self, tensors: Sequence[torch.Tensor | None], found: _Found) -> _Found:
        """Bring each tensor to a form that the kernel reads, or count it among the odd."""
        for row, tensor in enumerate(tensors):
            flat, implied = (None, 0) if tensor is None else flatten(tensor)
            if flat is None:
                continue
            if type(flat) is torch.Tensor and flat.device == self.device:
                flat = computable(flat)
            if type(flat) is not torch.Tensor or not self._here([flat]) or flat.dtype not in KINDS:
                found.odd.append(row)
                continue
            found.kept.append(flat)
            found.kinds[row] = KINDS[flat.dtype]
            found.table[ADDRESS, row] = flat.data_ptr()
            found.table[STORED, row] = flat.numel()
            found.table[TOTAL, row] = flat.numel() + implied
        return found

    def _ready(self, found: _Found) -> _Buffers:
        """Return buffers that fit the tensors, and complete the table by their tiles in them."""
        size = self._tiles[found.kinds]
        used = -(-np.maximum(found.table[STORED], 0) // size)
        held = capturing(self.device)
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        for buffers in self._dealt:
            if buffers.fit(found.kinds, used) and (held or buffers.stream == stream):
                self._dealt.remove(buffers)
                break
        else:
            if held:
                raise RuntimeError(
                    "expected one launch with these tensors outside of the CUDA graph before each "
                    "launch that is captured, found none: it compiles and allocates"
                )
            buffers = self._deal(*self._wider(found.kinds, used), stream)
        self._dealt[:] = [buffers, *self._dealt[: REMEMBERED - 1]]
        found.table[FIRST], found.table[USED] = buffers.first, used
        return buffers

    def _wider(self, kinds: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keep the tiles of tensors that are missing now: gradients of experts come and go."""
        if not self._dealt or len(self._dealt[0].kinds) != len(kinds):
            return kinds, used
        last, missing = self._dealt[0], kinds == MISSING
        return np.where(missing, last.kinds, kinds), np.where(missing, last.room, used)

    def _deal(self, kinds: np.ndarray, room: np.ndarray, stream: object) -> _Buffers:
        """Give tensors their tiles, one kind after the other, and make the buffers for them."""
        first, launches, owners, tiles = np.zeros_like(room), [], [], 0
        for kind in KINDS.values():
            rows = np.flatnonzero(kinds == kind)
            count = int(room[rows].sum())
            if count:
                self.try_out(kind)
                first[rows] = tiles + np.cumsum(room[rows]) - room[rows]
                owners.append(np.repeat(rows, room[rows]))
                launches.append((kind, tiles, count))
                tiles += count
        owner = np.concatenate(owners) if tiles else np.zeros(1)
        table = np.zeros((5, len(kinds)), np.int64)
        return _Buffers(
            kinds=kinds,
            room=room,
            first=first,
            launches=launches,
            table=self._sent(table),
            owners=self._sent(owner.astype(np.int32)),
            partials=torch.empty((5, len(owner)), dtype=torch.float64, device=self.device),
            spare=self._pinned(table),
            stream=stream,
        )

    def _pinned(self, array: np.ndarray) -> torch.Tensor:
        """The array on the host; torch uses its memory again only once copies from it are done."""
        host = torch.from_numpy(array)
        return host.pin_memory() if self.device.type == "cuda" else host

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        return self._pinned(array).to(self.device, non_blocking=True)

    def _send(self, table: np.ndarray, buffers: _Buffers) -> None:
        """Bring the table to the device if it has changed, or if a graph must do so by itself."""
        if capturing(self.device):
            buffers.spare.numpy()[:] = table
            buffers.table.copy_(buffers.spare, non_blocking=True)
        elif buffers.sent is None or not np.array_equal(table, buffers.sent):
            buffers.table.copy_(self._pinned(table), non_blocking=True)
            buffers.sent = table

    def _run(self, buffers: _Buffers, rows: Rows) -> None:
        """Launch the kernels: one for each kind of tensors, one for the rows."""
        code, (_, capacity), tiles = self._code, buffers.table.shape, buffers.partials.shape[1]
        options = {"enable_fp_fusion": True}  # squares and sums are none the worse for it
        for kind, first, count in buffers.launches:
            code.read_tiles[(count,)](
                buffers.table,
                buffers.owners,
                buffers.partials,
                capacity,
                tiles,
                first,
                **code.FORMATS[kind],
                num_warps=code.WARPS,
                **options,
            )
        code.fold_tiles[(capacity,)](
            buffers.table,
            buffers.partials,
            rows.values,
            rows.stamps,
            rows.steps,
            capacity,
            tiles,
            *rows.values.shape[:2],
            num_warps=FOLD_WARPS,
            **options,
        )

    def _patch(self, tensors: Sequence[torch.Tensor | None], odd: list[int], rows: Rows) -> None:
        """Put in the rows that the kernel left NaN because it cannot read the tensors."""
        values = np.empty((len(odd), len(STATISTICS)))
        self._eager([tensors[row] for row in odd], values)
        place = rows.steps % len(rows.values)
        where = torch.tensor(odd, device=self.device)
        rows.values[place, where] = torch.from_numpy(values).to(self.device)

    def try_out(self, kind: int) -> None:
        """Compile the kernel for a kind, and see on this device that it computes what it should.

        Raises:
            ArithmeticError: it does not.
        """
        trusted = _trusted.setdefault(self.device, set())
        if kind in trusted:
            return
        trusted.add(kind)  # or the launcher made here would try it in turn
        try:
            dtype = next(each for each, number in KINDS.items() if number == kind)
            size = int(self._tiles[kind]) + 4  # a whole tile and the beginning of another
            probe = torch.zeros((2, size), dtype=dtype, device="cpu")
            probe[0, 0], probe[0, 1], probe[0, -1] = 3.0, -4.0, torch.inf
            word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
            probe.view(word)[1, 5] = 1  # the smallest subnormal, whatever the CPU flushes
            smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            batch = probe.to(self.device)
            rows = Rows.on(self.device, 1, 2)
            Launcher(self.device).launch([batch[0], batch[1]], rows)
            exact = [
                [5.0, 4.0, -1.0 / (size - 1), 1.0, size - 3.0],
                [smallest, smallest, smallest / size, 0.0, size - 1.0],
            ]
            if not np.allclose(rows.values[0].cpu().numpy(), exact, rtol=1e-6, atol=5e-324):
                raise ArithmeticError(f"its results for {dtype} are wrong on {self.device}")
        except BaseException:
            trusted.discard(kind)
            raise
