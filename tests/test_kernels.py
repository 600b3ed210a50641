"""The passes over tensors against a naive extended-precision oracle, at every dispatch level."""

from __future__ import annotations

import ctypes
import gc
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot import kernels
from surefoot.kernels import MAXABS, MEAN, NONFINITE, NORM, STATISTICS, ZEROS, Pass
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.layout import flatten, is_dense
from surefoot.kernels.native import LEVELS, Library, NativePass, load

LIBRARY = load()
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def native(level: int) -> Pass:
    assert isinstance(LIBRARY, Library)
    return NativePass(LIBRARY, level, 1)  # too small on purpose: it must grow


def kernel_makers() -> list[object]:
    """The eager pass and, where the library is built, each level that this CPU has."""
    levels = range(LIBRARY.best + 1) if isinstance(LIBRARY, Library) else ()
    makers = [pytest.param(lambda level=n: native(level), id=LEVELS[n]) for n in levels]
    return [pytest.param(EagerPass, id="eager"), *makers]


every_kernel = pytest.mark.parametrize("make", kernel_makers())


# ---- the oracle: no code shared with the kernels --------------------------------------------


@np.errstate(over="ignore")
def oracle(tensor: torch.Tensor | None) -> tuple[list[float], float]:
    """The row by plain sums in extended precision, and the mean magnitude (for tolerance)."""
    if tensor is None:
        return [math.nan] * 5, 0.0
    tensor = tensor.detach()
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    values = np.array(dense.to(torch.float64).flatten().tolist(), dtype=np.longdouble)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return [0.0, 0.0, 0.0, float(values.size), 0.0], 0.0
    row = [  # a norm beyond the largest double is infinite
        float(np.sqrt(np.sum(finite * finite))),
        float(np.max(np.abs(finite))),
        float(np.sum(finite) / finite.size),
        float(values.size - finite.size),
        float(np.sum(values == 0)),
    ]
    return row, float(np.sum(np.abs(finite)) / finite.size)


def assert_row(row: np.ndarray, tensor: torch.Tensor | None) -> None:
    expected, magnitude = oracle(tensor)
    where = f"{STATISTICS} got {row.tolist()}, oracle {expected}"
    if tensor is None:
        assert np.isnan(row).all(), where
        return
    for column in (NORM, MAXABS):
        assert row[column] == pytest.approx(expected[column], rel=1e-6, abs=1e-323), where
    # a mean that cancels can be no better than float64 sums of the magnitudes allow
    slack = 1e-6 * abs(expected[MEAN]) + 1e-12 * magnitude + 1e-323
    assert abs(row[MEAN] - expected[MEAN]) <= slack, where
    assert row[NONFINITE] == expected[NONFINITE], where
    assert row[ZEROS] == expected[ZEROS], where


def run(kernel: Pass, tensors: Sequence[torch.Tensor | None]) -> np.ndarray:
    out = np.full((len(tensors), 5), 123.0)
    kernel(tensors, out)
    return out


# ---- random tensors -------------------------------------------------------------------------

SPECIAL = {
    "zero": lambda rng, n, info: rng.choice([0.0, -0.0], n),
    "nan": lambda rng, n, info: np.full(n, np.nan),
    "inf": lambda rng, n, info: rng.choice([np.inf, -np.inf], n),
    "subnormal": lambda rng, n, info: rng.integers(-50, 50, n) * float(info.tiny) * float(info.eps),
    "huge": lambda rng, n, info: rng.uniform(-1, 1, n) * float(info.max),
    "tiny": lambda rng, n, info: rng.uniform(-8, 8, n) * float(info.tiny),
    "wide": lambda rng, n, info: (
        rng.choice([-1, 1], n)
        * np.exp2(rng.uniform(math.log2(float(info.tiny)), math.log2(float(info.max)), n))
    ),
}
# just below, at and above what one vector, one step and one block hold, in each dtype
SIZES = st.one_of(
    st.integers(0, 70),
    st.sampled_from([2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193, 16385, 20000]),
)


@st.composite
def elements(draw: st.DrawFn, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal values, with other flavours in up to two stretches or sprinkled over all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal(size) * draw(st.sampled_from([1.0, 1e-3, 1e3, 0.0]))
    flavours = draw(st.lists(st.sampled_from(sorted(SPECIAL)), max_size=3))
    for flavour in flavours:
        special = SPECIAL[flavour](rng, size, torch.finfo(dtype))
        if draw(st.booleans()):
            start, stop = sorted(rng.integers(0, size + 1, 2))
            values[start:stop] = special[start:stop]
        else:
            where = rng.random(size) < draw(st.sampled_from([0.001, 0.3, 1.0]))
            values[where] = special[where]
    return torch.from_numpy(values).to(dtype)


def strided(draw: st.DrawFn, flat: torch.Tensor) -> torch.Tensor:
    """Give a flat tensor some shape and layout (dropping elements that do not fit it)."""
    size = flat.numel()
    layout = draw(
        st.sampled_from(
            [
                "flat",
                "offset",
                "transposed",
                "step",
                "expanded",
                "last",
                "reversed axes",
                "column",
                "parameter",
                "scalar",
            ]
        )
    )
    if layout == "offset":
        return flat[min(3, size) :]
    if layout == "transposed":
        return flat[: size // 3 * 3].view(-1, 3).t()
    if layout == "step":
        return flat[::2]
    if layout == "expanded":
        return flat[: min(size, 7)].view(-1, 1).expand(-1, 5)
    if layout == "last":
        whole = flat[: size // 12 * 12].view(-1, 3, 2, 2)
        return whole.contiguous(memory_format=torch.channels_last)
    if layout == "reversed axes":
        return flat[: size // 6 * 6].view(-1, 3, 2).permute(2, 1, 0)
    if layout == "column":
        return flat[: size // 4 * 4].view(-1, 4)[:, 1]
    if layout == "parameter":
        return torch.nn.Parameter(flat)
    if layout == "scalar" and size:
        return flat[size // 2]
    return flat


def sparse(draw: st.DrawFn, flat: torch.Tensor) -> torch.Tensor:
    if draw(st.booleans()) and flat.dtype in (torch.float32, torch.float64):
        return flat[: flat.numel() // 4 * 4].view(-1, 4).to_sparse_csr()
    if draw(st.booleans()):
        return flat[: flat.numel() // 4 * 4].view(-1, 4).to_sparse()
    # Duplicates, which add up; whole numbers, so that their order changes nothing.
    flat = flat.nan_to_num().clamp(-8, 8).round()
    places = max(flat.numel() // 2, 1)
    index = torch.arange(flat.numel()) * 7 % places
    return torch.sparse_coo_tensor(index[None], flat, (places + 3,), check_invariants=True)


@st.composite
def tensors(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> torch.Tensor | None:
    kind = draw(st.sampled_from(["strided"] * 6 + ["sparse", "none"]))
    if kind == "none":
        return None
    dtype = draw(st.sampled_from(DTYPES))
    flat = draw(elements(draw(sizes), dtype))
    return sparse(draw, flat) if kind == "sparse" else strided(draw, flat)


# building CSR tensors warns once that they are in beta
pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* support is in beta")
thorough = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


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


# ---- promises -------------------------------------------------------------------------------


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


# ---- which kernel serves --------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[Library | str], None]:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    return lambda found: monkeypatch.setattr(kernels, "_library", lambda: found)


def test_what_was_built_is_served() -> None:
    """Without this a library that fails its own check would only make tests vanish."""
    folder = Path(kernels.__file__).parent
    if not any((folder / f"_native{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        pytest.skip(str(LIBRARY))
    assert isinstance(LIBRARY, Library), LIBRARY


def test_a_missing_library_means_eager_and_a_reason(
    library: Callable[[Library | str], None], tmp_path: Path
) -> None:
    library(load(tmp_path))
    assert kernels.make_pass(3).name == kernels.kernel_name() == "eager"
    assert "not built" in str(kernels.kernel_reason())
    assert run(kernels.make_pass(1), [torch.ones(4)])[0, NORM] == 2.0


def test_a_broken_library_means_eager_and_a_reason(
    library: Callable[[Library | str], None], tmp_path: Path
) -> None:
    (tmp_path / f"_native{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    library(load(tmp_path))
    assert kernels.kernel_name() == "eager"
    assert "cannot be loaded" in str(kernels.kernel_reason())


@pytest.mark.skipif(isinstance(LIBRARY, str), reason=str(LIBRARY))
def test_the_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(LIBRARY, Library)
    best = f"native-{LEVELS[LIBRARY.best]}"
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    assert (kernels.make_pass(1).name, kernels.kernel_reason()) == (best, None)
    monkeypatch.setenv(kernels.VARIABLE, "eager")
    assert isinstance(kernels.make_pass(1), EagerPass)
    assert "SUREFOOT_KERNEL" in str(kernels.kernel_reason())
    monkeypatch.setenv(kernels.VARIABLE, "baseline")
    assert kernels.make_pass(1).name == kernels.kernel_name() == "native-baseline"
    monkeypatch.setenv(kernels.VARIABLE, "quantum")
    assert kernels.kernel_name() == best
    assert "unknown" in str(kernels.kernel_reason())


def test_a_level_that_the_cpu_lacks_is_not_served(
    library: Callable[[Library | str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(Library(ctypes.CDLL(None), 0))
    monkeypatch.setenv(kernels.VARIABLE, "avx512")
    assert kernels.make_pass(1).name == "native-baseline"
    assert "no avx512" in str(kernels.kernel_reason())


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
