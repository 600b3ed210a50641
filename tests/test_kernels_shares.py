"""A pass shared out among threads gives the rows of a pass on one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_fixture import LIBRARY, assert_row, run, tensors, thorough
from surefoot.kernels import shares
from surefoot.kernels.native import Library, NativePass

pytestmark = [
    pytest.mark.skipif(not isinstance(LIBRARY, Library), reason="no native library"),
    pytest.mark.filterwarnings("ignore:Sparse .* support is in beta"),
]


@contextmanager
def many_threads() -> Iterator[None]:
    """Three threads for next to nothing, in pieces of 256 bytes, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 3)
        patch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
        patch.setattr(shares, "_WORTH", 1)
        patch.setattr(shares, "_PIECE", 256)
        yield


def make() -> NativePass:
    assert isinstance(LIBRARY, Library)
    return NativePass(LIBRARY, LIBRARY.best, 1)


@settings(thorough, max_examples=150)
@given(batches=st.lists(st.lists(tensors(st.integers(0, 400)), max_size=6), min_size=1, max_size=3))
def test_any_tensors(batches: list[list[torch.Tensor | None]]) -> None:
    kernel = make()
    with many_threads():
        for batch in [*batches, batches[0]]:  # a plan is made anew where it must be, or kept
            for row, tensor in zip(run(kernel, batch), batch, strict=True):
                assert_row(row, tensor)


@many_threads()
@pytest.mark.parametrize("locate", [True, False], ids=["at once", "each"])  # PyTorch before 2.10
def test_nothing_to_read_after_something_sparse(locate: bool) -> None:
    assert isinstance(LIBRARY, Library)
    library = LIBRARY if locate else replace(LIBRARY, locate=None)
    kernel = NativePass(library, library.best, 1)
    for listed in ([], [torch.eye(300).to_sparse()], []):
        assert len(run(kernel, listed)) == len(listed)


@many_threads()
def test_it_is_shared() -> None:
    kernel, spans = make(), []
    inner = kernel._read
    kernel._read = lambda count, *p: (spans.append(count), inner(count, *p))  # type: ignore
    kernel([torch.ones(1000), None, torch.ones(1000)], np.empty((3, 5)))
    assert len(spans) == 3 and sum(spans) == 16 + 1 + 16
    assert max(spans) - min(spans) <= 2


@many_threads()
def test_extremes_and_non_finite_ones_in_any_piece() -> None:
    for place in (0, 63, 64, 500, 999):
        for value in (math.nan, math.inf, -1e300, 5e-324, 0.0):
            tensor = torch.linspace(1, 2, 1000, dtype=torch.float64)
            tensor[place] = value
            assert_row(run(make(), [tensor])[0], tensor)
    huge = torch.full((1000,), 1.7e308, dtype=torch.float64)
    (row,) = run(make(), [huge])
    assert row[2] == pytest.approx(1.7e308)  # the sum of all is beyond a double


@many_threads()
def test_a_failure_in_a_thread_is_not_swallowed() -> None:
    kernel = make()

    def read(count: int, *pointers: int) -> None:
        raise MemoryError("of another thread")

    kernel._read = read  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        kernel([torch.ones(1000)], np.empty((1, 5)))


@pytest.mark.parametrize(("size", "threads"), [(31 << 20, 1), (32 << 20, 2), (1 << 30, 6)])
def test_few_bytes_are_read_on_one_thread_and_many_on_no_more_than_torch_has(
    monkeypatch: pytest.MonkeyPatch, size: int, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert shares._worth(size) == threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert shares._worth(size) == 1
