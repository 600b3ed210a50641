"""The histogram of magnitudes against one made an element at a time by math.frexp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_fixture import DTYPES, LIBRARY, tensors, thorough
from surefoot.kernels.magnitudes import OCTAVES, WIDTH, make_magnitudes
from surefoot.kernels.native import Library

# building CSR tensors warns once that they are in beta
pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* support is in beta")

MAKERS = {"numpy": "not built"} | ({"native": LIBRARY} if isinstance(LIBRARY, Library) else {})
every = pytest.mark.parametrize("library", MAKERS.values(), ids=MAKERS.keys())


def rows(library: Library | str, batch: Sequence[torch.Tensor | None]) -> np.ndarray:
    out = np.full((len(batch), WIDTH), 7.0)
    make_magnitudes(library, 1)(batch, out)
    return out


def oracle(values: list[float]) -> list[float]:
    """The row by its definition."""
    finite = [abs(x) for x in values if math.isfinite(x)]
    octaves = [math.frexp(x)[1] - 1 for x in finite if x]
    if not values:
        return [math.nan] * WIDTH
    if not octaves:
        return [math.nan] + [0.0] * (WIDTH - 1)
    top = max(octaves)
    shares = [sum(top - o == k for o in octaves) / len(finite) for k in range(OCTAVES)]
    rest = sum(top - o >= OCTAVES for o in octaves) / len(finite)
    return [float(top), *shares, rest]


@every
@settings(thorough, max_examples=150)
@given(batch=st.lists(tensors(st.integers(0, 600)), max_size=4))
def test_any_tensor(library: Library | str, batch: list[torch.Tensor | None]) -> None:
    found = rows(library, batch)
    for row, tensor in zip(found, batch, strict=True):
        if tensor is None:
            assert np.isnan(row).all()
            continue
        if tensor.layout is not torch.strided:
            tensor = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor
        if tensor.layout is torch.strided:
            values = tensor.detach().to(torch.float64).flatten().tolist()
            np.testing.assert_allclose(row, oracle(values), rtol=1e-12)


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_power_of_two_and_its_neighbours(library: Library | str, dtype: torch.dtype) -> None:
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    low = math.log2(torch.finfo(dtype).smallest_normal) + math.log2(torch.finfo(dtype).eps)
    high = math.log2(torch.finfo(dtype).max)
    for exponent in range(int(low), math.ceil(high)):
        power = torch.tensor([2.0**exponent], dtype=dtype)
        assert float(power) == 2.0**exponent
        batch = torch.cat([power, (power.view(bits) - 1).view(dtype), -power])
        (row,) = rows(library, [batch])
        np.testing.assert_array_equal(row, oracle(batch.double().tolist()))


@every
@pytest.mark.parametrize("count", [2047, 2048, 2049, 4096, 100_003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_a_large_tensor_four_stretches_are_read(
    library: Library | str, dtype: torch.dtype, count: int
) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(count).to(dtype)
    if count <= 2048:
        sample = tensor
    else:
        starts = [i * ((count - 512) // 3) for i in range(4)]
        sample = torch.cat([tensor[s : s + 512] for s in starts])
    (row,) = rows(library, [tensor])
    np.testing.assert_allclose(row, oracle(sample.double().tolist()), rtol=1e-12)


@every
def test_a_normal_distribution(library: Library | str) -> None:
    torch.manual_seed(1)
    shares = []
    for _ in range(40):
        (row,) = rows(library, [torch.randn(200_000)])
        top = int(row[0])
        shares.append(row[1 + top - -1])  # of the octave from 1/2 to 1
    expected = math.erf(1 / math.sqrt(2)) - math.erf(0.5 / math.sqrt(2))
    assert np.mean(shares) == pytest.approx(expected, abs=4 * 0.0101 / math.sqrt(40))
    assert np.std(shares) == pytest.approx(math.sqrt(expected * (1 - expected) / 2048), rel=0.5)


@every
def test_nothing_is_carried_from_one_tensor_to_the_next(library: Library | str) -> None:
    torch.manual_seed(2)
    batch = [torch.randn(50) * 10.0**k for k in (-42, -30, 0, 30)] + [torch.randn(9).double()]
    batch += [torch.zeros(5), torch.tensor([math.nan, math.inf]), torch.randn(70).half()]
    together = rows(library, batch)
    alone = np.concatenate([rows(library, [t]) for t in batch])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, rows("not built", batch))
