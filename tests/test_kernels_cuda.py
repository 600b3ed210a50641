"""The Triton kernel where it belongs: on a CUDA device, against the same oracle."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kernels_fixture import DTYPES, assert_row, run
from surefoot import kernels
from surefoot.kernels import MAXABS, MEAN, NONFINITE, NORM, ZEROS, availability, launcher
from surefoot.kernels.launcher import Launcher
from surefoot.kernels.ring import Ring

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def triton_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is of Triton, not of what would quietly take its place."""
    pytest.importorskip("triton")
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    torch.cuda.init()
    assert kernels.kernel_reason() is None
    assert kernels.kernel_name().endswith("+triton")


@pytest.fixture(autouse=True)
def triton_still_serves(triton_serves: None) -> Iterator[None]:
    yield
    assert availability.trouble() is None


def ring(count: int, length: int) -> Ring:
    made = kernels.make_ring(count, DEVICE, length=length)
    assert isinstance(made._writer, Launcher)
    return made


def gradients(scale: float = 1.0) -> list[torch.Tensor | None]:
    """Of every dtype, over several tiles, misaligned, missing, empty and strided."""
    generator = torch.Generator().manual_seed(0)
    made: list[torch.Tensor | None] = []
    for dtype in DTYPES:
        values = (torch.randn(40_003, generator=generator) * scale).to(dtype).to(DEVICE)
        made += [values, values[3:20_000], values[:40_000].view(200, 200).t(), values[::2]]
    return [*made, None, torch.empty(0, device=DEVICE), torch.ones((), device=DEVICE)]


# ---- the numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_sizes_around_strips_and_tiles(dtype: torch.dtype, offset: int) -> None:
    sizes = [1, 2, *[2**k + d for k in (8, 9, 10, 11, 12, 13) for d in (-1, 0, 1)]]
    values = torch.randn(2**15).to(dtype).to(DEVICE)
    batch = [values[offset : offset + size] for size in sizes]
    for row, tensor in zip(run(kernels.make_pass(1), batch), batch, strict=True):
        assert_row(row, tensor.cpu())


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_bit_patterns(dtype: torch.dtype) -> None:
    """Every NaN payload, every subnormal; a device might take those for zero."""
    rng = np.random.default_rng(7)
    kernel = kernels.make_pass(1)
    for size in (1, 100, 5000, 70_000):
        tensor = torch.frombuffer(bytearray(rng.bytes(size * dtype.itemsize)), dtype=dtype)
        assert_row(run(kernel, [tensor.to(DEVICE)])[0], tensor)
    if dtype.itemsize == 2:
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        assert_row(run(kernel, [every.to(DEVICE)])[0], every)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_powers_of_two(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    low = round(math.log2(float(info.tiny) * float(info.eps)))
    powers = [2.0**e for e in range(low, round(math.log2(float(info.max))))]
    table = torch.tensor([[power, -power, 0.0] for power in powers], dtype=dtype).to(DEVICE)
    out = run(kernels.make_pass(1), list(table))
    exact = np.array(powers) * math.sqrt(2)
    np.testing.assert_allclose(out[:, NORM], exact, rtol=1e-6, atol=5e-324)
    np.testing.assert_array_equal(out[:, MAXABS], powers)
    np.testing.assert_array_equal(out[:, MEAN:], [[0.0, 0.0, 1.0]] * len(powers))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, 0.1),
        (torch.float32, 1e-30),
        (torch.float32, 1e25),
        (torch.float32, 1e-42),
        (torch.bfloat16, 1e-39),
        (torch.float16, 6e-8),
        (torch.float64, 1e200),
        (torch.float64, 1e-300),
    ],
)
def test_many_equal_elements(dtype: torch.dtype, value: float) -> None:
    """As many as GPT-2's embedding has."""
    count = 50257 * 768
    exact = float(torch.tensor(value, dtype=dtype).double())
    row = run(kernels.make_pass(1), [torch.full((count,), value, dtype=dtype).to(DEVICE)])[0]
    assert row[NORM] == pytest.approx(math.sqrt(count) * exact, rel=1e-9)
    assert row[MEAN] == pytest.approx(exact, rel=1e-9)
    assert row[[MAXABS, NONFINITE, ZEROS]].tolist() == [exact, 0.0, 0.0]


def test_more_elements_than_32_bits_count() -> None:
    count = 2**32 + 5
    if torch.cuda.mem_get_info(DEVICE)[0] < 3 * count:
        pytest.skip("needs 12 GB of free memory on the device")
    tensor = torch.zeros(count, dtype=torch.bfloat16, device=DEVICE)
    tensor[-1], tensor[-2], tensor[0] = 3.0, torch.nan, -4.0
    row = run(kernels.make_pass(1), [tensor])[0]
    exact = [5.0, 4.0, -1.0 / (count - 1), 1.0, count - 3.0]
    assert row.tolist() == pytest.approx(exact, rel=1e-12)


def test_what_the_kernel_does_not_read_itself() -> None:
    """Complex numbers, other dtypes, sparse tensors and tensors without data, among others."""
    batch = [
        torch.tensor([3 + 4j, 0j, complex(math.inf, 1)], device=DEVICE),
        torch.tensor([2.0, -0.5, 0.0], device=DEVICE).to(torch.float8_e5m2),
        torch.tensor([3, -4, 0], device=DEVICE),
        torch.eye(2, device=DEVICE).to_sparse(),
        torch.empty(3, device="meta"),
        torch.ones(4, device=DEVICE),
    ]
    expected = [
        [5.0, 5.0, 1.5, 1.0, 1.0],
        [math.sqrt(4.25), 2.0, 0.5, 0.0, 1.0],
        [5.0, 4.0, -1 / 3, 0.0, 1.0],
        [math.sqrt(2), 1.0, 0.5, 0.0, 2.0],
        [math.nan] * 5,
        [2.0, 1.0, 1.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(run(kernels.make_pass(1), batch), expected, rtol=1e-12)
    watched = ring(len(batch), 2)
    for _ in range(3):
        watched.launch(batch)
    for _, rows in watched.drain():
        np.testing.assert_allclose(rows, expected, rtol=1e-12)


def test_lists_of_both_places() -> None:
    here = [torch.full((5000,), 3.0), None, torch.full((7,), torch.nan), torch.tensor([3 + 4j])]
    there = [None if tensor is None else tensor.to(DEVICE) for tensor in here]
    mixed = [tensor for pair in zip(here, there, strict=True) for tensor in pair]
    out = run(kernels.make_pass(1), mixed)
    np.testing.assert_allclose(out[1::2], out[::2], rtol=1e-12)
    exact = np.repeat([math.sqrt(5000) * 3, math.nan, 0.0, 5.0], 2)
    np.testing.assert_allclose(out[:, NORM], exact, rtol=1e-12)


# ---- what a launch must not do --------------------------------------------------------------


def test_launches_and_polls_never_wait() -> None:
    """PyTorch itself raises where it would wait for the device."""
    watched = ring(len(gradients()), 3)
    watched.launch(gradients())  # compiles and allocates
    steps = [gradients(scale) for scale in (1.0, 2.0, 3.0, 4.0)]
    torch.cuda.synchronize()
    arrived = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in steps * 3:
            watched.launch(step)
            arrived += watched.poll()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    arrived += watched.drain()
    assert [number for number, _ in arrived] == list(range(13))
    for number, rows in arrived[1:]:
        for row, tensor in zip(rows, steps[(number - 1) % 4], strict=True):
            assert_row(row, None if tensor is None else tensor.cpu())


def test_a_launch_allocates_nothing_on_the_device() -> None:
    batch = [tensor for tensor in gradients() if tensor is None or tensor.numel() != 20_002]
    watched = ring(len(batch), 4)  # without slices, which are copied
    watched.launch(batch)

    def allocations() -> int:
        return torch.cuda.memory_stats(DEVICE)["allocation.all.allocated"]

    before = allocations()
    for _ in range(9):
        watched.launch(batch)
        watched.poll()
    assert allocations() == before


def test_new_tensors_each_step_are_found() -> None:
    """As after `zero_grad`, and with memory that the last step's tensors have left."""
    watched, kept = ring(2, 2), []
    for number in range(7):
        kept = [torch.full((100_000 - number,), number + 1.0, device=DEVICE), None]
        watched.launch(kept)
        del kept
    for number, rows in watched.drain():
        assert rows[0, NORM] == pytest.approx(math.sqrt(100_000 - number) * (number + 1))
        assert np.isnan(rows[1]).all()


def test_a_host_far_ahead_of_the_device() -> None:
    """The table goes over while the device is still busy with the steps before."""
    watched = ring(1, 4)
    watched.launch([torch.ones(1, device=DEVICE)])
    torch.cuda.synchronize()
    busy = torch.randn(4096, 4096, device=DEVICE)
    tensors = [torch.full((10,), float(n), device=DEVICE) for n in range(100)]
    for _ in range(20):
        busy = busy @ busy
    for tensor in tensors:
        watched.launch([tensor])
    norms = [rows[0, NORM] for number, rows in watched.drain() if number > 0]
    assert norms == pytest.approx([math.sqrt(10) * n for n in range(100)])


def test_another_stream_waits_for_the_one_before() -> None:
    watched, other = ring(1, 2), torch.cuda.Stream(DEVICE)
    values = torch.randn(2**22, device=DEVICE)
    torch.cuda.synchronize()
    for number in range(8):
        with torch.cuda.stream(other if number % 2 else torch.cuda.default_stream(DEVICE)):
            watched.launch([values[number:]])
    for number, rows in watched.drain():
        assert rows[0, NORM] == pytest.approx(float(values[number:].double().norm()), rel=1e-9)


def test_two_threads_may_share_a_pass() -> None:
    kernel, wrong = kernels.make_pass(1), []

    def steps(size: int, dtype: torch.dtype) -> None:
        batch = [torch.ones(size, dtype=dtype, device=DEVICE) for _ in range(size % 7)]
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


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device only")
def test_two_devices() -> None:
    other = torch.device("cuda", 1)
    batch = [torch.full((9000,), 2.0, device=DEVICE), torch.full((9000,), 3.0, device=other)]
    exact = [math.sqrt(9000) * 2, math.sqrt(9000) * 3]
    assert run(kernels.make_pass(1), batch)[:, NORM].tolist() == pytest.approx(exact)
    watched = ring(2, 2)
    watched.launch(batch)
    assert watched.drain()[0][1][:, NORM].tolist() == pytest.approx(exact)


# ---- CUDA graphs ----------------------------------------------------------------------------


def test_each_replay_of_a_captured_launch_is_a_step() -> None:
    batch = [tensor for tensor in gradients() if tensor is None or tensor.numel() != 20_002]
    watched = ring(len(batch), 4)
    watched.launch(batch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        watched.launch(batch)
        assert watched.poll() == []
    base = [None if tensor is None else tensor.clone() for tensor in batch]
    arrived = watched.drain()
    for scale in (2.0, 0.5, 4.0):
        for tensor, first in zip(batch, base, strict=True):
            if tensor is not None:
                tensor.copy_(first * scale)
        graph.replay()
    assert [number for number, _ in arrived] == [0]  # what was captured did not run
    arrived += watched.drain()
    assert [number for number, _ in arrived] == [0, 1, 2, 3]
    for row, tensor in zip(arrived[-1][1], batch, strict=True):
        assert_row(row, None if tensor is None else tensor.cpu())
    # launches outside of the graph and its replays leave each other's addresses alone
    others = [None if tensor is None else torch.full_like(tensor, 3.0) for tensor in batch]
    watched.launch(others)
    graph.replay()
    watched.launch(others)
    arrived = watched.drain()
    assert [number for number, _ in arrived] == [4, 5, 6]
    for (_, rows), expected in zip(arrived, (others, batch, others), strict=True):
        for row, tensor in zip(rows, expected, strict=True):
            assert_row(row, None if tensor is None else tensor.cpu())


def test_a_capture_without_a_launch_before_is_refused_and_goes_on() -> None:
    watched = ring(1, 4)
    tensor, other = torch.ones(5000, device=DEVICE), torch.ones(3, device=DEVICE)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match="outside of the CUDA graph"):
            watched.launch([tensor])
        with pytest.raises(RuntimeError, match="captured"):
            kernels.make_pass(1)([tensor], np.empty((1, 5)))
        other.mul_(2.0)
    graph.replay()
    assert other.tolist() == [2.0] * 3


# ---- failures -------------------------------------------------------------------------------


def test_a_failure_of_triton_leaves_the_device_to_the_eager_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*rest: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(availability, "_trouble", None)  # put back before the fixture looks
    monkeypatch.setattr(launcher, "_trusted", {})
    batch = gradients()
    watched = ring(len(batch), 2)
    watched.launch(batch)
    monkeypatch.setattr(Launcher, "_run", fail)
    watched.launch(batch)
    assert "no compiler" in str(kernels.kernel_reason())
    for _, rows in watched.drain():
        for row, tensor in zip(rows, batch, strict=True):
            assert_row(row, None if tensor is None else tensor.cpu())
    for row, tensor in zip(run(kernels.make_pass(1), batch), batch, strict=True):
        assert_row(row, None if tensor is None else tensor.cpu())
    monkeypatch.undo()
