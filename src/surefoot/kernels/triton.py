"""The pass in Triton: what runs on the device. `launcher.py` is its host side.

Two kernels. `read_tiles` has one program a tile, 16 KiB of one tensor's elements, and leaves five
partial results a tile; `fold_tiles` has one program a tensor, folds its tiles' partials and
writes its row. Nothing is decided on the host in between, so a CUDA graph can hold both.

Squares and sums are taken in float64, where those of float32, bfloat16 and float16 elements are
exact and cannot leave the range. Squares of float64 elements can: a tile whose largest magnitude
says so is read again and multiplied by 2^600 or 2^-600. Finiteness, zero and magnitude are read
from the bits as integers. A tile with non-finite elements is read again with those masked.

Importing this module imports Triton, so only `launcher.py` does, when a tensor asks for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

SINGLE, DOUBLE, BRAIN, HALF = (tl.constexpr(kind) for kind in range(4))  # as in addresses.py

# Of each kind: the integers its bits are read as, whose magnitudes from INFINITE on are not finite;
# elements of a tile, 16 KiB, and of a strip, which all threads read by one instruction of 16 bytes.
FORMATS = (
    {"KIND": 0, "WORD": tl.int32, "INFINITE": 0x7F800000, "TILE": 4096, "STRIP": 512},
    {"KIND": 1, "WORD": tl.int64, "INFINITE": 0x7FF0000000000000, "TILE": 2048, "STRIP": 256},
    {"KIND": 2, "WORD": tl.int16, "INFINITE": 0x7F80, "TILE": 8192, "STRIP": 1024},
    {"KIND": 3, "WORD": tl.int16, "INFINITE": 0x7C00, "TILE": 8192, "STRIP": 1024},
)
WARPS = 4

# Rows of the table [5, capacity], int64: where a tensor lies, its stored elements (-1: it has no
# data), those and its implied zeros, its first tile and how many it uses.
ADDRESS, STORED, TOTAL, FIRST, USED = (tl.constexpr(row) for row in range(5))
# Rows of the partials [5, tiles], float64.
SQUARE, SUM, LARGEST, BAD, ZERO = (tl.constexpr(row) for row in range(5))

RAISE, LOWER = tl.constexpr(2.0**600), tl.constexpr(2.0**-600)
# Outside of these, squares of float64 or the sum of 2^60 of them leave its range.
TINY, HUGE = tl.constexpr(2.0**-450), tl.constexpr(2.0**480)
FOLD = tl.constexpr(512)  # tiles folded at once


@triton.jit
def _unit(largest):
    """What elements up to `largest` are divided by so that their squares fit a float64."""
    small = tl.where((largest > 0.0) & (largest < TINY), LOWER, 1.0)
    return tl.where(largest >= HUGE, RAISE, small)


@triton.jit
def _inverse(unit):
    return tl.where(unit > 1.0, LOWER, tl.where(unit < 1.0, RAISE, 1.0))


@triton.jit
def _value(bits, KIND: tl.constexpr):
    """The elements with these bits in float64, exactly."""
    if KIND == DOUBLE:
        value = bits.to(tl.float64, bitcast=True)
    elif KIND == SINGLE:
        value = bits.to(tl.float32, bitcast=True).to(tl.float64)
    elif KIND == BRAIN:
        value = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True).to(tl.float64)
    else:
        value = bits.to(tl.float16, bitcast=True).to(tl.float32).to(tl.float64)
    return value


@triton.jit
def _magnitude(bits, KIND: tl.constexpr):
    """The bits but the sign, in an integer of 32 bits or more."""
    if KIND == DOUBLE:
        size = bits & 0x7FFFFFFFFFFFFFFF
    elif KIND == SINGLE:
        size = bits & 0x7FFFFFFF
    else:
        size = (bits & 0x7FFF).to(tl.int32)
    return size


@triton.jit
def _magnitude_value(size, KIND: tl.constexpr):
    if KIND != SINGLE and KIND != DOUBLE:
        size = size.to(tl.int16)
    return _value(size, KIND)


@triton.jit
def _strips(KIND: tl.constexpr, STRIP: tl.constexpr):
    """Nothing seen yet, a lane each: largest bits, zeros, squares and sums."""
    tops = tl.zeros((STRIP,), tl.int64 if KIND == DOUBLE else tl.int32)
    zeros = tl.zeros((STRIP,), tl.int32)
    nothing = tl.zeros((STRIP,), tl.float64)
    return tops, zeros, nothing, nothing


@triton.jit
def _add(bits, tops, zeros, squares, sums, KIND: tl.constexpr):
    size, value = _magnitude(bits, KIND), _value(bits, KIND)
    zeros += (size == 0).to(tl.int32)
    return tl.maximum(tops, size), zeros, squares + value * value, sums + value


@triton.jit
def _read(
    address,
    start,
    valid,
    KIND: tl.constexpr,
    WORD: tl.constexpr,
    TILE: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Largest bits, zeros, square and sum of up to a tile's elements, as if all were finite."""
    lanes = tl.arange(0, STRIP)
    tops, zeros, squares, sums = _strips(KIND, STRIP)
    if (valid == TILE) & (address % 16 == 0):
        # The promise must stand on this pointer, which only this branch has: on the address it
        # would hold for the other branch too. With it 16 bytes are read by one instruction.
        pointer = address.to(tl.pointer_type(WORD))  # pyrefly: ignore[bad-argument-type]
        aligned = tl.multiple_of(pointer, 16)
        for strip in tl.static_range(0, TILE, STRIP):  # unrolled: loads go out together
            bits = tl.load(aligned + start + strip + lanes)
            tops, zeros, squares, sums = _add(bits, tops, zeros, squares, sums, KIND)
    else:
        words = address.to(tl.pointer_type(WORD)) + start  # pyrefly: ignore[bad-argument-type]
        for strip in range(0, TILE, STRIP):
            bits = tl.load(words + strip + lanes, strip + lanes < valid, 0)
            tops, zeros, squares, sums = _add(bits, tops, zeros, squares, sums, KIND)
    extra = TILE - valid  # lanes beyond the end, read as zeros
    return tl.max(tops, 0), tl.sum(zeros, 0) - extra, tl.sum(squares, 0), tl.sum(sums, 0)


@triton.jit
def _reread(
    address,
    start,
    valid,
    KIND: tl.constexpr,
    WORD: tl.constexpr,
    INFINITE: tl.constexpr,
    TILE: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Largest finite bits, non-finite elements, square and sum of the finite, over their unit."""
    lanes = tl.arange(0, STRIP)
    words = address.to(tl.pointer_type(WORD)) + start  # pyrefly: ignore[bad-argument-type]
    tops, bads, squares, sums = _strips(KIND, STRIP)
    for strip in range(0, TILE, STRIP):
        bits = tl.load(words + strip + lanes, strip + lanes < valid, 0)
        size = _magnitude(bits, KIND)
        tops = tl.maximum(tops, tl.where(size < INFINITE, size, 0))
        bads += (size >= INFINITE).to(tl.int32)
    top = tl.max(tops, 0)
    for strip in range(0, TILE, STRIP):
        bits = tl.load(words + strip + lanes, strip + lanes < valid, 0)
        value = tl.where(_magnitude(bits, KIND) < INFINITE, _value(bits, KIND), 0.0)
        if KIND == DOUBLE:
            value = value * _inverse(_unit(_magnitude_value(top, KIND)))
        squares += value * value
        sums += value
    return top, tl.sum(bads, 0), tl.sum(squares, 0), tl.sum(sums, 0)


@triton.jit(do_not_specialize=["capacity", "tiles", "first_tile"])
def read_tiles(
    table,
    owners,
    partials,
    capacity,
    tiles,
    first_tile,
    KIND: tl.constexpr,
    WORD: tl.constexpr,
    INFINITE: tl.constexpr,
    TILE: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Leave the partials of tiles from `first_tile` on, whose tensors are all of one KIND.

    owners: int32 [tiles], the tensor of each tile; partials: float64 [5, tiles].
    """
    tile = first_tile + tl.program_id(0).to(tl.int64)
    entry = table + tl.load(owners + tile)
    start = (tile - tl.load(entry + FIRST * capacity)) * TILE
    left = tl.load(entry + STORED * capacity) - start
    if left > 0:  # a tensor may have become smaller, or be missing, since the tiles were dealt
        address = tl.load(entry + ADDRESS * capacity)
        valid = tl.minimum(left, TILE).to(tl.int32)
        top, zeros, square, total = _read(address, start, valid, KIND, WORD, TILE, STRIP)
        bad = tl.full((), 0, tl.int32)
        odd = top >= INFINITE
        if KIND == DOUBLE:
            odd = odd | (_unit(_magnitude_value(top, KIND)) != 1.0)
        if odd:  # read again: held in registers meanwhile, the bits would cost every other tile
            top, bad, square, total = _reread(
                address, start, valid, KIND, WORD, INFINITE, TILE, STRIP
            )
        mine = partials + tile
        tl.store(mine + SQUARE * tiles, square)
        tl.store(mine + SUM * tiles, total)
        tl.store(mine + LARGEST * tiles, _magnitude_value(top, KIND))
        tl.store(mine + BAD * tiles, bad.to(tl.float64))
        tl.store(mine + ZERO * tiles, zeros.to(tl.float64))


@triton.jit(do_not_specialize=["capacity", "tiles", "length", "height"])
def fold_tiles(table, partials, rows, stamps, steps, capacity, tiles, length, height):
    """Write the row of each tensor at the place in the ring of the step that `steps` tells.

    rows: float64 [length, height, 5]; stamps: int64 [length], the step of each place;
    steps: int64 [1]. The tiles' squares and sums are brought to the largest tile's unit.
    """
    tensor = tl.program_id(0)
    step = tl.load(steps)
    out = rows + (step % length * height + tensor) * 5
    if tensor == 0:
        tl.store(stamps + step % length, step)
    stored = tl.load(table + STORED * capacity + tensor)
    count = tl.load(table + TOTAL * capacity + tensor)
    used = tl.load(table + USED * capacity + tensor)
    mine = partials + tl.load(table + FIRST * capacity + tensor)
    if stored < 0:
        for column in tl.static_range(5):
            tl.store(out + column, float("nan"))
    else:
        lanes = tl.arange(0, FOLD)
        tops = tl.zeros((FOLD,), tl.float64)
        for start in range(0, used, FOLD):
            here = mine + LARGEST * tiles + start + lanes
            tops = tl.maximum(tops, tl.load(here, start + lanes < used, 0.0))
        top = tl.max(tops, 0)
        unit = _unit(top)
        squares = tl.zeros((FOLD,), tl.float64)
        sums = tl.zeros((FOLD,), tl.float64)
        bads = tl.zeros((FOLD,), tl.float64)
        zeros = tl.zeros((FOLD,), tl.float64)
        for start in range(0, used, FOLD):
            here = mine + start + lanes
            there = start + lanes < used
            scale = _unit(tl.load(here + LARGEST * tiles, there, 0.0)) * _inverse(unit)
            squares += tl.load(here + SQUARE * tiles, there, 0.0) * scale * scale
            sums += tl.load(here + SUM * tiles, there, 0.0) * scale
            bads += tl.load(here + BAD * tiles, there, 0.0)
            zeros += tl.load(here + ZERO * tiles, there, 0.0)
        bad = tl.sum(bads, 0)
        finite = tl.maximum(count.to(tl.float64) - bad, 1.0)  # of none, the sum is zero
        tl.store(out + 0, tl.sqrt(tl.sum(squares, 0)) * unit)
        tl.store(out + 1, top)
        tl.store(out + 2, tl.sum(sums, 0) / finite * unit)
        tl.store(out + 3, bad)
        tl.store(out + 4, tl.sum(zeros, 0) + (count - stored).to(tl.float64))


# With TRITON_INTERPRET the kernels run on the CPU, and would read a device's addresses there.
INTERPRETED = not isinstance(read_tiles, triton.runtime.JITFunction)
