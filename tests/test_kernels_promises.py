"""What a pass may never do: change or keep a tensor, or read or write beyond its bounds."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_fixture import LIBRARY, assert_row, every_kernel, run, tensors, thorough
from surefoot import kernels
from surefoot.kernels import NORM, Pass
from surefoot.kernels.native import Library

# building CSR tensors warns once that they are in beta
pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* support is in beta")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as integers, so that NaN equals itself and -0.0 differs from 0.0."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().view(whole)


@every_kernel
@settings(thorough, max_examples=40)
@given(batch=st.lists(tensors(st.integers(0, 300)), max_size=5))
def test_watching_changes_nothing(
    make: Callable[[], Pass], batch: list[torch.Tensor | None]
) -> None:
    present = [t for t in batch if t is not None and t.layout is torch.strided]
    before = [bits(t).clone() for t in present]
    state = [(t._version, t.requires_grad, t.grad_fn, t.data_ptr(), t.stride()) for t in present]
    rng, threads, graded = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    run(make(), batch)
    assert all(torch.equal(a, bits(t)) for a, t in zip(before, present, strict=True))
    assert state == [
        (t._version, t.requires_grad, t.grad_fn, t.data_ptr(), t.stride()) for t in present
    ]
    assert torch.equal(rng, torch.get_rng_state())
    assert (threads, graded) == (torch.get_num_threads(), torch.is_grad_enabled())


@every_kernel
def test_no_tensor_is_kept_alive(make: Callable[[], Pass]) -> None:
    kernel = make()
    batch = [torch.ones(5), torch.ones(6, 2).t(), torch.ones(3).to_sparse(), torch.ones(3).int()]
    alive = [weakref.ref(tensor) for tensor in batch]
    out = run(kernel, batch)
    batch.clear()
    gc.collect()
    assert [ref() for ref in alive] == [None] * 4
    assert out[:, NORM].tolist() == pytest.approx([math.sqrt(n) for n in (5, 12, 3, 3)])


@every_kernel
def test_floating_point_mode_is_left_alone(make: Callable[[], Pass]) -> None:
    subnormal = torch.tensor([1e-40, -1e-41])
    run(make(), [subnormal])
    assert float(subnormal[0] * 1.0) != 0.0  # not flushed by us
    assert float(torch.tensor(5e-324, dtype=torch.float64) * 1.0) != 0.0


@pytest.mark.skipif(isinstance(LIBRARY, str), reason=str(LIBRARY))
def test_native_is_right_where_the_user_flushes_subnormals() -> None:
    tensors = [torch.tensor([1e-40, -1e-41, 0.0]), torch.tensor([5e-324], dtype=torch.float64)]
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        out = run(kernels.make_pass(2), tensors)
        still_flushing = float(tensors[0][0] * 1.0) == 0.0
    finally:
        torch.set_flush_denormal(False)
    for row, tensor in zip(out, tensors, strict=True):
        assert_row(row, tensor)
    assert still_flushing


@every_kernel
@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 5)),
        np.empty((1, 4)),
        np.empty((1, 5), np.float32),
        np.empty((1, 10))[:, ::2],
        np.broadcast_to(0.0, (1, 5)),
    ],
    ids=["rows", "columns", "dtype", "strides", "read-only"],
)
def test_an_unfit_out_is_refused(make: Callable[[], Pass], out: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"C-contiguous float64 array of shape \(1, 5\)"):
        make()([torch.ones(1)], out)


@every_kernel
def test_rows_of_a_ring_are_written_in_place(make: Callable[[], Pass]) -> None:
    ring, kernel = np.zeros((3, 2, 5)), make()
    kernel([torch.ones(4), None], ring[1])
    assert not ring[0].any() and not ring[2].any()
    assert ring[1, 0].tolist() == [2.0, 1.0, 1.0, 0.0, 0.0]


@every_kernel
def test_two_threads_may_share_a_pass(make: Callable[[], Pass]) -> None:
    kernel, wrong = make(), []

    def steps(size: int, dtype: torch.dtype) -> None:
        torch.set_num_threads(1)
        batch: list[torch.Tensor | None] = [torch.ones(size, dtype=dtype) for _ in range(size % 7)]
        for _ in range(50):
            if not np.allclose(run(kernel, batch)[:, NORM], math.sqrt(size)):
                wrong.append(size)

    arguments = [(50_000, torch.float32), (17, torch.float64), (30_000, torch.float16)]
    threads = [threading.Thread(target=steps, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


BEYOND = """
import ctypes, mmap, sys
page = mmap.PAGESIZE
library = ctypes.CDLL(sys.argv[1])
memory = mmap.mmap(-1, 2 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
out = (ctypes.c_double * 5)()
for level in range(library.surefoot_best_level() + 1):
    for kind, size in enumerate((4, 8, 2, 2)):
        for count in range(200):
            data = ctypes.c_void_p(start + page - count * size)
            library.surefoot_parameter_pass(
                level, ctypes.c_int64(1), ctypes.byref(data), ctypes.byref(ctypes.c_int64(count)),
                ctypes.byref(ctypes.c_int8(kind)), out)
            assert list(out) == [0.0, 0.0, 0.0, 0.0, float(count)], (level, kind, count, list(out))
print("read nothing beyond")
"""


@pytest.mark.skipif(isinstance(LIBRARY, str), reason=str(LIBRARY))
@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by name")
def test_native_reads_nothing_beyond_the_end() -> None:
    """Arrays that end where a forbidden page begins: one byte too many ends the process."""
    assert isinstance(LIBRARY, Library)
    command = [sys.executable, "-c", BEYOND, LIBRARY.handle._name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "read nothing beyond\n", (done.returncode, done.stderr)
