"""What the tests of the kernels share: every kernel, a naive oracle and random tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from surefoot.kernels import MAXABS, MEAN, NONFINITE, NORM, STATISTICS, ZEROS, Pass
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.native import LEVELS, Library, NativePass, load

LIBRARY = load()
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def native(level: int) -> Pass:
    assert isinstance(LIBRARY, Library)
    return NativePass(LIBRARY, level, 1)  # too small on purpose: it must grow


def asking_each() -> Pass:
    """As before PyTorch 2.10, which has no table to ask where all tensors lie."""
    assert isinstance(LIBRARY, Library)
    return NativePass(replace(LIBRARY, locate=None), LIBRARY.best, 1)


def kernel_makers() -> list[object]:
    """The eager pass and, where the library is built, each level that this CPU has."""
    makers = [pytest.param(EagerPass, id="eager")]
    if isinstance(LIBRARY, Library):
        levels = range(LIBRARY.best + 1)
        makers += [pytest.param(lambda level=n: native(level), id=LEVELS[n]) for n in levels]
        makers += [pytest.param(asking_each, id="asking_each")]
    return makers


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


thorough = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
