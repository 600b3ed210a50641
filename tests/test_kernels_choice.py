"""Which kernel serves: what was built, what the variable asks for, what the CPU has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from kernels_fixture import LIBRARY, run
from surefoot import kernels
from surefoot.kernels import NORM
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.native import LEVELS, Library, load


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
