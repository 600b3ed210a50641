"""The passes over tensors against a naive extended-precision oracle, at every dispatch level."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_fixture import DTYPES, SIZES, assert_row, every_kernel, run, tensors, thorough
from surefoot.kernels import MAXABS, MEAN, NONFINITE, NORM, ZEROS, Pass
from surefoot.kernels.layout import flatten, is_dense

# building CSR tensors warns once that they are in beta
pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* support is in beta")


@every_kernel
@thorough
@given(batches=st.lists(st.lists(tensors(), max_size=6), min_size=1, max_size=3))
def test_every_statistic_of_every_tensor(
    make: Callable[[], Pass], batches: list[list[torch.Tensor | None]]
) -> None:
    kernel = make()  # one kernel for all batches: nothing of one may reach the next
    for batch in batches:
        out = run(kernel, batch)
        for row, tensor in zip(out, batch, strict=True):
            assert_row(row, tensor)


@every_kernel
def test_nothing_is_taken_over_from_the_last_step(make: Callable[[], Pass]) -> None:
    """Steps that differ from the one before in a single respect each."""
    single, double = torch.float32, torch.float64
    steps: list[list[torch.Tensor | None]] = [
        [torch.full((4,), 2.0), None, torch.full((4,), 3.0, dtype=double)],
        [None, torch.full((4,), 2.0), torch.full((4,), 3.0, dtype=double)],
        [None, torch.full((4,), 2.0), torch.full((7,), 3.0, dtype=double)],
        [None, torch.full((4,), 2.0, dtype=double), torch.full((7,), 3.0, dtype=single)],
        [torch.full((9,), 2.0, dtype=double), torch.full((4,), 2.0), torch.full((7,), 3.0)],
        [torch.eye(5).to_sparse(), torch.full((6,), 4.0), torch.full((1,), 4.0)],
        [torch.full((9,), 2.0, dtype=double), torch.full((4,), 2.0), torch.full((7,), 3.0)],
        [torch.full((2,), 5.0)],
        [],
        [None, None],
        [torch.full((2,), 6.0), None],
    ]
    kernel = make()
    for step in steps:
        for row, tensor in zip(run(kernel, step), step, strict=True):
            assert_row(row, tensor)


@every_kernel
@settings(thorough, max_examples=40)
@given(
    size=SIZES,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_bit_patterns(
    make: Callable[[], Pass], size: int, dtype: torch.dtype, seed: int
) -> None:
    """Every NaN payload, every subnormal: whatever memory may hold."""
    memory = np.random.default_rng(seed).bytes(size * dtype.itemsize) or b"\0" * 8
    tensor = torch.frombuffer(bytearray(memory), dtype=dtype)[:size]
    assert_row(run(make(), [tensor])[0], tensor)


@every_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_halves_and_all_powers_of_two(make: Callable[[], Pass], dtype: torch.dtype) -> None:
    """Each power of two of the dtype alone in a block, so that no other hides its error."""
    info = torch.finfo(dtype)
    low = round(math.log2(float(info.tiny) * float(info.eps)))
    powers = [2.0**e for e in range(low, round(math.log2(float(info.max))))]
    batch = [torch.tensor([power, -power, 0.0], dtype=dtype) for power in powers]
    out = run(make(), batch)
    np.testing.assert_allclose(
        out[:, NORM], np.array(powers) * math.sqrt(2), rtol=1e-6, atol=5e-324
    )
    np.testing.assert_array_equal(out[:, MAXABS], powers)
    np.testing.assert_array_equal(out[:, MEAN:], [[0.0, 0.0, 1.0]] * len(powers))
    if dtype.itemsize == 2:
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        assert_row(run(make(), [every])[0], every)


@every_kernel
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, 1e-30),  # torch's own norm: 0.0
        (torch.float32, 1e25),  # torch's own norm: inf
        (torch.float32, 1e-42),
        (torch.float32, 0.1),  # torch's own norm loses digits with the number of elements
        (torch.float64, 1e200),
        (torch.float64, 1e-200),
        (torch.float64, 3e-162),  # its square is subnormal
        (torch.float64, 5e-324),
        (torch.bfloat16, 1e-30),
        (torch.bfloat16, 1e-39),
        (torch.float16, 60000.0),
        (torch.float16, 6e-8),
    ],
)
def test_norm_of_many_equal_elements(
    make: Callable[[], Pass], dtype: torch.dtype, value: float
) -> None:
    count = 300_001
    tensor = torch.full((count,), value, dtype=dtype)
    exact = float(tensor[0].double())
    row = run(make(), [tensor])[0]
    assert row[NORM] == pytest.approx(math.sqrt(count) * exact, rel=1e-6, abs=5e-324)
    assert row[[MAXABS, NONFINITE, ZEROS]].tolist() == [exact, 0.0, 0.0]
    assert row[MEAN] == pytest.approx(exact, rel=1e-6, abs=5e-324)


@every_kernel
def test_squares_that_only_their_number_makes_too_large(make: Callable[[], Pass]) -> None:
    value = 2.0**499.95  # whose square a double holds, but not 20 million times
    row = run(make(), [torch.full((20_000_000,), value, dtype=torch.float64)])[0]
    assert row[NORM] == pytest.approx(math.sqrt(20e6) * value, rel=1e-6)
    assert row[MEAN] == pytest.approx(value, rel=1e-6)


@every_kernel
def test_squares_on_both_sides_of_the_smallest_normal(make: Callable[[], Pass]) -> None:
    """Where small squares are flushed to zero, one that is not must not hide the others."""
    tensor = torch.full((3000,), 1.48e-154, dtype=torch.float64)
    tensor[7] = 1.5e-154
    assert_row(run(make(), [tensor])[0], tensor)


# ---- what only some path reads --------------------------------------------------------------


@every_kernel
def test_other_dtypes(make: Callable[[], Pass]) -> None:
    batch = [
        torch.tensor([3 + 4j, 0j, complex(math.inf, 1), complex(1, math.nan)]),
        torch.tensor([[2.0, -0.5, 0.0]]).to(torch.float8_e5m2),
        torch.tensor([3, -4, 0]),
        torch.tensor([True, False]),
        torch.tensor([3e200 + 4e200j, 0j], dtype=torch.complex128).conj(),
    ]
    out = run(make(), batch)
    expected = [
        [5.0, 5.0, 1.5, 2.0, 1.0],
        [math.sqrt(4.25), 2.0, 0.5, 0.0, 1.0],
        [5.0, 4.0, -1 / 3, 0.0, 1.0],
        [1.0, 1.0, 0.5, 0.0, 1.0],
        [5e200, 5e200, 1.5e200, 0.0, 1.0],
    ]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@every_kernel
def test_a_tensor_without_data_has_no_row(make: Callable[[], Pass]) -> None:
    out = run(make(), [torch.empty(3, device="meta"), torch.ones(4)])
    assert np.isnan(out[0]).all()
    assert out[1].tolist() == [2.0, 1.0, 1.0, 0.0, 0.0]


@every_kernel
def test_lazily_negated_tensors(make: Callable[[], Pass]) -> None:
    many = torch.tensor([1 + 2j, 3 - 4j, 0j]).conj().imag
    single = torch.tensor([1 + 2j]).conj().imag  # contiguous, and still negated
    assert many.is_neg() and single.is_neg()
    for tensor in (many, single):  # one at a time: one odd tensor takes all the slower way
        assert_row(run(make(), [tensor])[0], tensor)


@every_kernel
def test_subclasses_are_read_without_their_own_code(make: Callable[[], Pass]) -> None:
    called = []

    class Noisy(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    tensor = torch.tensor([3.0, -4.0, 0.0]).as_subclass(Noisy)
    called.clear()
    assert run(make(), [tensor])[0].tolist() == pytest.approx([5.0, 4.0, -1 / 3, 0.0, 1.0])
    assert called == []


@every_kernel
def test_a_distributed_tensor_counts_by_its_shard(make: Callable[[], Pass]) -> None:
    """Reading the whole would need communication, in which a single rank would hang."""

    class Shards(torch.Tensor):
        def to_local(self) -> torch.Tensor:
            return torch.tensor([3.0, 4.0])

    assert run(make(), [torch.zeros(8).as_subclass(Shards)])[0, NORM] == 5.0


@every_kernel
def test_nested_and_opaque_layouts(make: Callable[[], Pass]) -> None:
    batch = [torch.tensor([3.0, -4.0, 0.0, 0.0]).view(2, 2).to_mkldnn()]
    assert run(make(), batch)[0].tolist() == pytest.approx([5.0, 4.0, -0.25, 0.0, 2.0])


# ---- layouts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.ones(2, 3), True),
        (torch.ones(2, 3).t(), True),
        (torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), True),
        (torch.ones(2, 3, 4).permute(1, 2, 0), True),
        (torch.ones(0, 3).t(), True),
        (torch.ones(()), True),
        (torch.ones(6)[::2], False),
        (torch.ones(2, 3)[:, :2], False),
        (torch.ones(1).expand(4), False),
        (torch.ones(4).as_strided((3, 2), (1, 1)), False),
    ],
)
def test_dense_layouts_are_read_without_a_copy(tensor: torch.Tensor, dense: bool) -> None:
    assert is_dense(tensor) is dense
    flat, implied = flatten(tensor)
    assert flat is not None
    assert (flat.data_ptr() == tensor.data_ptr()) is dense
    assert (flat.numel(), implied) == (tensor.numel(), 0)
