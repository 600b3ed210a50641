"""What only the Triton kernel has, as it ships: strips, tiles and units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from interpreted import SHIPPED, interpreted
from kernels_fixture import DTYPES, assert_row, run
from surefoot.kernels import MEAN, NONFINITE, NORM, ZEROS, availability, launcher, triton
from surefoot.kernels.launcher import Launcher
from surefoot.kernels.rows import Rows

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "FORMATS", SHIPPED)


def borders(dtype: torch.dtype) -> Iterator[int]:
    """Sizes just below, at and above one strip, one tile and two."""
    form = SHIPPED[DTYPES.index(dtype)]
    for size in (form["STRIP"], form["TILE"], 2 * form["TILE"]):
        yield from (size - 1, size, size + 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_sizes_around_strips_and_tiles(dtype: torch.dtype, offset: int) -> None:
    """Offset by one element the addresses are no multiples of 16, and read another way."""
    generator = torch.Generator().manual_seed(offset)
    wholes = [torch.randn(size + offset, generator=generator) for size in borders(dtype)]
    batch = [whole.to(dtype)[offset:] for whole in wholes]
    assert {tensor.data_ptr() % 16 == 0 for tensor in batch} == {offset == 0}
    for row, tensor in zip(run(interpreted(), batch), batch, strict=True):
        assert_row(row, tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_place_counts(dtype: torch.dtype) -> None:
    """One odd element in a tensor of ones, at the places where strips and tiles begin and end."""
    form = SHIPPED[DTYPES.index(dtype)]
    strip, tile = form["STRIP"], form["TILE"]
    batch = []
    for place in (0, strip - 1, strip, tile - 1, tile, tile + 2):
        for value in (0.0, torch.nan, -60000.0):
            batch.append(torch.ones(tile + 3, dtype=dtype))
            batch[-1][place] = value
    for row, tensor in zip(run(interpreted(), batch), batch, strict=True):
        assert_row(row, tensor)


@pytest.mark.parametrize("size", [1, 5, 4095, 4096, 4097])
@pytest.mark.parametrize("offset", [16, 17])
def test_what_lies_around_a_view_is_not_read(size: int, offset: int) -> None:
    whole = torch.full((size + 64,), torch.nan)
    whole[offset : offset + size] = 3.0
    row = run(interpreted(), [whole[offset : offset + size]])[0]
    assert row[NORM] == pytest.approx(3.0 * size**0.5)
    assert row[[NONFINITE, ZEROS]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("low", [-1074, -530, -451, -450, 0, 479, 480, 1023])
@pytest.mark.parametrize("high", [-1022, -451, -450, 479, 480])
def test_tiles_of_different_units(low: int, high: int) -> None:
    """float64 tensors whose tiles need another factor each before they can be squared."""
    tile = SHIPPED[1]["TILE"]
    tensor = torch.full((2 * tile + 1,), 1.1 * 2.0**low, dtype=torch.float64)
    tensor[tile:] = -1.1 * 2.0**high
    assert_row(run(interpreted(), [tensor])[0], tensor)


def test_many_small_tensors() -> None:
    batch = [torch.full((n % 9,), 0.5 + n, dtype=DTYPES[n % 4]) for n in range(90)]
    mixed = [None if n % 7 == 3 else tensor for n, tensor in enumerate(batch)]
    for row, tensor in zip(run(interpreted(), mixed), mixed, strict=True):
        assert_row(row, tensor)


def test_counts_beyond_32_bits() -> None:
    """The partials of a tensor of more than 2^32 elements, folded; of fewer tiles than it has."""
    tiles, size = 600, 2**23
    count = tiles * size
    table = torch.tensor([[0], [count], [count], [0], [tiles]])
    partials = torch.zeros((5, tiles), dtype=torch.float64)
    partials[3], partials[4] = 1.0, size - 1.0
    rows = Rows.on(CPU, 1, 1)
    triton.fold_tiles[(1,)](table, partials, rows.values, rows.stamps, rows.steps, 1, tiles, 1, 1)
    assert count > 2**32
    assert rows.values[0, 0].tolist() == [0.0, 0.0, 0.0, tiles, count - tiles]


def test_sums_that_leave_the_range_of_a_float64() -> None:
    """2^40 tiles' worth of the largest elements that are squared as they are; and one more unit."""
    tiles = 600
    table = torch.tensor([[0], [tiles], [tiles], [0], [tiles]])
    partials = torch.zeros((5, tiles), dtype=torch.float64)
    for exponent in (479.0, 480.0, 1023.0):
        unit = 1.0 if exponent < 480 else 2.0**600
        partials[0], partials[1] = 2.0**40 * (2.0**exponent / unit) ** 2, 0.0
        partials[2] = 2.0**exponent
        rows = Rows.on(CPU, 1, 1)
        triton.fold_tiles[(1,)](
            table, partials, rows.values, rows.stamps, rows.steps, 1, tiles, 1, 1
        )
        exact = math.inf if exponent == 1023.0 else math.sqrt(tiles) * 2.0 ** (exponent + 20)
        assert rows.values[0, 0, NORM].item() == pytest.approx(exact, rel=1e-12)


def test_tiles_are_dealt_again_only_where_a_tensor_outgrows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What decides whether a step allocates, and whether its grid is that of the last."""
    dealt: list[Launcher] = []
    deal = Launcher._deal
    monkeypatch.setattr(
        Launcher, "_deal", lambda self, *rest: dealt.append(self) or deal(self, *rest)
    )
    kernel = interpreted()

    def deals(*sizes: int | None, dtype: torch.dtype = torch.float32) -> int:
        batch = [None if n is None else torch.full((n,), 2.0, dtype=dtype) for n in sizes]
        for row, tensor in zip(run(kernel, batch), batch, strict=True):
            assert_row(row, tensor)
        times = dealt.count(kernel._launcher)  # others deal to try a kind out
        dealt.clear()
        return times

    assert deals(5000, 7) == 1
    assert deals(5000, 7) == 0  # new tensors, new addresses
    assert deals(4097, 4096) == 0  # as many tiles
    assert deals(1, 0) == 0  # fewer
    assert deals(None, 7) == 0
    assert deals(5000, 4097) == 1
    assert deals(5000, 7) == 0
    assert deals(1, 1, 1) == 1
    assert deals(5000, 7) == 0  # taking turns
    assert deals(5000, 7, dtype=torch.bfloat16) == 1
    assert deals(None, 7, 7, 7) == 1
    assert deals(9, None, 7, 7) == 1
    assert deals(None, 7, 7, 7) == deals(9, None, 7, 7) == deals(9, 7, 7, 7) == 0


def no_number(rows: torch.Tensor) -> None:
    rows[0, 0, NORM] = torch.nan


def inexact(rows: torch.Tensor) -> None:
    rows *= 1.001


def subnormals_flushed(rows: torch.Tensor) -> None:
    rows[0, 1, :MEAN] = 0.0


@pytest.mark.parametrize("spoil", [no_number, inexact, subnormals_flushed])
def test_a_kernel_that_computes_wrongly_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[torch.Tensor], None]
) -> None:
    monkeypatch.setattr(availability, "_trouble", None)
    monkeypatch.setattr(launcher, "_trusted", {})
    assert availability.make_launcher(CPU) is not None
    launcher._trusted.clear()
    run = Launcher._run

    def wrong(self: Launcher, buffers: object, rows: Rows) -> None:
        run(self, buffers, rows)  # type: ignore[arg-type]
        spoil(rows.values)

    monkeypatch.setattr(Launcher, "_run", wrong)
    assert availability.make_launcher(CPU) is None
    assert "wrong" in str(availability.trouble())
    assert launcher._trusted == {CPU: set()}


def test_what_is_interpreted_reads_no_device() -> None:
    """It would take a device's addresses for its own and end the process."""
    with pytest.raises(RuntimeError, match="interprets"):
        Launcher(torch.device("cuda", 0))
