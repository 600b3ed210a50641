"""Which pass reads which tensor where some lie on CUDA devices; with stand-ins for those."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from surefoot import kernels
from surefoot.kernels import availability, placed
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.placed import PlacedPass

CPU, ZERO, ONE = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


class Stub:
    """A pass whose rows tell which it was and which values it was given."""

    def __init__(self, name: str, number: float, failure: Exception | None = None) -> None:
        self.name, self.number, self.failure = name, number, failure
        self.calls = 0

    def __call__(self, tensors: Sequence[Any], out: np.ndarray) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        for row, tensor in zip(out, tensors, strict=True):
            row[:] = np.nan if tensor is None else [self.number, *[float(tensor.value)] * 4]


class Tensor(SimpleNamespace):
    """A tensor of some device, as a DTensor is: its shard is what counts."""

    def to_local(self) -> Tensor:
        return self


def tensor(device: torch.device, value: float) -> Tensor:
    return Tensor(device=device, value=value)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[torch.device, Stub]:
    """Stubs for the host and two devices, and a process that has initialised CUDA."""
    stubs = {CPU: Stub("native", 1.0), ZERO: Stub("triton", 2.0), ONE: Stub("triton", 3.0)}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(placed, "capturing", lambda device: False)
    monkeypatch.setattr(availability, "_trouble", None)
    monkeypatch.setattr(placed, "make_launcher", lambda device: device)
    monkeypatch.setattr(placed, "TritonPass", lambda device, capacity: stubs[device])
    return stubs


def rows(kernel: PlacedPass, tensors: Sequence[Any]) -> list[list[float]]:
    out = np.full((len(tensors), 5), 123.0)
    kernel(tensors, out)
    return out[:, :2].tolist()


def test_each_tensor_goes_to_the_pass_of_its_device(passes: dict[torch.device, Stub]) -> None:
    kernel = PlacedPass(passes[CPU], 4)
    mixed = [tensor(ONE, 5), tensor(CPU, 6), None, tensor(ZERO, 7), tensor(CPU, 8), tensor(ONE, 9)]
    out = rows(kernel, mixed)
    assert out[:2] + out[3:] == [[3, 5], [1, 6], [2, 7], [1, 8], [3, 9]]
    assert np.isnan(out[2]).all()
    assert [stub.calls for stub in passes.values()] == [1, 1, 1]
    assert kernel.name == "native+triton"


@pytest.mark.parametrize("device", [CPU, ZERO])
def test_one_device_takes_one_call(passes: dict[torch.device, Stub], device: torch.device) -> None:
    out = rows(PlacedPass(passes[CPU], 4), [None, tensor(device, 5), tensor(device, 6)])
    assert np.isnan(out[0]).all()
    assert out[1:] == [[passes[device].number, 5], [passes[device].number, 6]]
    assert sum(stub.calls for stub in passes.values()) == passes[device].calls == 1


def test_lists_of_none_and_of_nothing(passes: dict[torch.device, Stub]) -> None:
    kernel = PlacedPass(passes[CPU], 4)
    assert rows(kernel, []) == []
    assert np.isnan(rows(kernel, [None, None])).all()
    assert kernel.name == "native"


def test_without_cuda_no_tensor_is_looked_at(
    passes: dict[torch.device, Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert rows(PlacedPass(passes[CPU], 4), [SimpleNamespace(value=4)]) == [[1, 4]]


def test_a_failure_of_triton_leaves_its_tensors_to_the_eager_pass_for_good(
    passes: dict[torch.device, Stub],
) -> None:
    kernel = PlacedPass(passes[CPU], 4)
    kernel._eager = Stub("eager", 4.0)  # type: ignore[assignment]
    mixed = [tensor(ZERO, 5), tensor(CPU, 6)]
    passes[ZERO].failure = RuntimeError("ptxas is missing\n...")
    assert rows(kernel, mixed) == [[4, 5], [1, 6]]
    passes[ZERO].failure = None
    assert rows(kernel, mixed) == [[4, 5], [1, 6]]
    assert passes[ZERO].calls == 1
    availability.give_up(ValueError("what follows from it"))
    assert availability.trouble() == "Triton does not work here (RuntimeError: ptxas is missing)"


def test_an_unfit_out_is_no_failure_of_triton(passes: dict[torch.device, Stub]) -> None:
    with pytest.raises(ValueError, match="C-contiguous"):
        PlacedPass(passes[CPU], 4)([tensor(ZERO, 5)], np.empty((2, 5)))
    assert availability.trouble() is None
    assert passes[ZERO].calls == 0


def test_nothing_waits_while_a_graph_is_captured(
    passes: dict[torch.device, Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed, "capturing", lambda device: True)
    kernel = PlacedPass(passes[CPU], 4)
    with pytest.raises(RuntimeError, match="captured"):
        rows(kernel, [tensor(ZERO, 5)])
    assert passes[ZERO].calls == 0
    assert availability.trouble() is None
    assert rows(kernel, [tensor(CPU, 5)]) == [[1, 5]]


# ---- the choice -----------------------------------------------------------------------------


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch that was built for CUDA, in a process that uses it and has no Triton."""
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(availability, "_trouble", None)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(availability, "capturing", lambda device: False)
    monkeypatch.setitem(sys.modules, "surefoot.kernels.triton", None)


@pytest.mark.usefixtures("cuda_build")
def test_a_missing_triton_means_eager_and_a_reason() -> None:
    assert isinstance(kernels.make_pass(1), PlacedPass)
    assert "triton" not in kernels.kernel_name()
    reason = kernels.kernel_reason()
    assert reason is not None and "Triton does not work here" in reason
    assert kernels.kernel_reason() == reason  # the same again, not once more
    out = np.empty((1, 5))
    kernels.make_pass(1)([torch.ones(4)], out)
    assert out[0].tolist() == [2.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.usefixtures("cuda_build")
def test_the_variable_chooses_eager_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "eager")
    assert isinstance(kernels.make_pass(1), EagerPass)
    assert kernels.kernel_reason() == "SUREFOOT_KERNEL asks for it"
    assert availability.trouble() is None  # it was not even tried


@pytest.mark.usefixtures("cuda_build")
def test_without_a_device_in_use_triton_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert "triton" not in kernels.kernel_name()
    kernels.kernel_reason()
    assert availability.trouble() is None


LAZY = """
import sys, torch
before = "triton" in sys.modules
import numpy, surefoot
from surefoot.kernels import kernel_name, kernel_reason, make_pass, make_ring
make_pass(1)([torch.ones(3)], numpy.empty((1, 5)))
make_ring(1, torch.device("cpu"), length=1).launch([torch.ones(3)])
kernel_name(), kernel_reason()
assert ("triton" in sys.modules) is before, "surefoot imported triton"
assert "surefoot.kernels.triton" not in sys.modules
print("lazy")
"""


def test_triton_is_imported_only_when_a_tensor_needs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "lazy\n", done.stderr
