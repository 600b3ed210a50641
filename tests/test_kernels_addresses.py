"""Where tensors lie, as PyTorch's C table tells it: against what the tensors themselves say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_fixture import LIBRARY, thorough
from surefoot.kernels.addresses import KINDS, Addresses
from surefoot.kernels.native import Library, NativePass

HAS_TABLE = isinstance(LIBRARY, Library) and LIBRARY.locate is not None
pytestmark = [
    pytest.mark.skipif(not HAS_TABLE, reason="no native library, or PyTorch before 2.10"),
    # building CSR tensors warns once that they are in beta
    pytest.mark.filterwarnings("ignore:Sparse .* support is in beta"),
]


def addresses() -> Addresses:
    assert isinstance(LIBRARY, Library)
    return Addresses(1, LIBRARY.locate)


def read(found: Addresses, count: int) -> list[tuple[int, int, int]]:
    """(address, elements, kind) of each row that is there."""
    raw = np.frombuffer(found._addresses, np.uint64)[:count]
    rows = zip(
        raw.tolist(), found.counts[:count].tolist(), found.kinds[:count].tolist(), strict=True
    )
    return [row if row[2] >= 0 else (0, 0, -1) for row in rows]


@st.composite
def strided(draw: st.DrawFn) -> torch.Tensor:
    """A view of some memory in any order of dimensions, with or without gaps and overlaps."""
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    dtype = draw(st.sampled_from(list(KINDS)))
    tensor = torch.zeros(math.prod(shape) + 3, dtype=dtype)[3:].view(shape)
    if shape and draw(st.booleans()):
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    if shape and draw(st.booleans()):
        tensor = tensor[:: draw(st.integers(1, 2))]
    if draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(draw(st.integers(1, 3)), *tensor.shape)
    return tensor


def places(tensor: torch.Tensor) -> list[int]:
    """The place of each element in memory, counted in elements."""
    indices = itertools.product(*map(range, tensor.shape))
    return [sum(i * s for i, s in zip(at, tensor.stride(), strict=True)) for at in indices]


def is_gapless(tensor: torch.Tensor) -> bool:
    """By definition: every place of a stretch is taken once."""
    return sorted(places(tensor)) == list(range(tensor.numel()))


@settings(thorough, max_examples=300)
@given(tensor=strided())
def test_a_tensor_is_read_as_it_lies_only_if_it_has_no_gaps(tensor: torch.Tensor) -> None:
    found = addresses()
    assert found.describe([tensor]) == is_gapless(tensor)
    if is_gapless(tensor):
        assert read(found, 1) == [(tensor.data_ptr(), tensor.numel(), KINDS[tensor.dtype])]


@settings(thorough, max_examples=100)
@given(batch=st.lists(st.none() | strided().filter(is_gapless), max_size=6))
def test_many_at_once(batch: list[torch.Tensor | None]) -> None:
    found = addresses()
    for given_as in (batch, tuple(batch)):
        assert found.describe(given_as)
        assert read(found, len(batch)) == [
            (0, 0, -1) if t is None else (t.data_ptr(), t.numel(), KINDS[t.dtype]) for t in batch
        ]


UNREADABLE = {
    "integers": lambda: torch.ones(3, dtype=torch.int32),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "eighths": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "booleans": lambda: torch.ones(3).bool(),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "rows": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.ones(3, device="meta"),
    "negated": lambda: torch.tensor([1 + 2j]).conj().imag,
    "subclass": lambda: torch.ones(3).as_subclass(type("Own", (torch.Tensor,), {})),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_wherever_it_stands(kind: str) -> None:
    tensor = UNREADABLE[kind]()
    for batch in ([tensor], [torch.ones(2), None, tensor, torch.ones(4)]):
        found = addresses()
        assert not found.describe(batch)
        assert found.describe([torch.ones(5)]), "the next list is another matter"


def test_a_tensor_that_was_given_other_memory_is_found_there() -> None:
    found, tensor = addresses(), torch.ones(4, 3)
    batch: Sequence[torch.Tensor] = [tensor]
    for data in (torch.ones(7), torch.ones(2, 2), torch.ones(4, 3).bfloat16()):
        tensor = torch.ones(4, 3)
        batch = [tensor]
        assert found.describe(batch)
        tensor.data = data
        assert found.describe(batch)
        assert read(found, 1) == [(data.data_ptr(), data.numel(), KINDS[data.dtype])]


def test_both_ways_of_asking_give_the_same_rows() -> None:
    assert isinstance(LIBRARY, Library)
    torch.manual_seed(0)
    batch = [
        torch.randn(30, 4),
        None,
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ]
    batch += [torch.randn(6, 4)[::2], torch.randn(7).half(), torch.randn(5).to_sparse()]
    rows = []
    for library in (LIBRARY, replace(LIBRARY, locate=None)):
        out = np.empty((len(batch), 5))
        NativePass(library, library.best, 1)(batch, out)
        rows.append(out)
    np.testing.assert_array_equal(*rows)
