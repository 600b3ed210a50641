"""One thread, an empty working directory on demand, and no test may leave a trace of surefoot."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules import module as nn_module
from torch.optim import optimizer as torch_optimizer

torch.set_num_threads(1)  # with more, a busy machine makes small operations a thousand times slower

# A shell ignores Ctrl-C on behalf of what it runs in the background, and children inherit that: the
# programs that are interrupted here would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a watch may replace for a while: (owner, attribute).
PATCHABLE: tuple[tuple[Any, str], ...] = (
    (torch, "compile"),
    (torch.autograd, "backward"),
    (torch.autograd, "grad"),
    (torch.Tensor, "backward"),
    (torch.optim.Optimizer, "__init__"),
    (torch.optim.Optimizer, "step"),
    (torch.amp.GradScaler, "scale"),
    (torch.amp.GradScaler, "step"),
    (torch.nn.Module, "__init__"),
    (torch.nn.Module, "__call__"),
    (torch.nn.Module, "__setattr__"),
    (torch.nn.Module, "_call_impl"),
    (torch.nn.Module, "compile"),
    (sys, "excepthook"),
    (sys, "settrace"),
    (threading, "excepthook"),
)


def hook_tables() -> dict[str, int]:
    """How many global hooks each of torch's tables holds."""
    return {
        f"{owner.__name__}.{name}": len(table)
        for owner in (nn_module, torch_optimizer)
        for name, table in vars(owner).items()
        if name.startswith("_global_") and hasattr(table, "__len__")
    }


def traces() -> dict[str, Any]:
    """Everything process-wide that surefoot could leave behind, to be compared as it is."""
    state: dict[str, Any] = {
        f"{getattr(owner, '__name__', owner)}.{name}": getattr(owner, name)
        for owner, name in PATCHABLE
        if hasattr(owner, name)
    }
    state |= hook_tables()
    state["threads"] = sorted(t.name for t in threading.enumerate() if "surefoot" in t.name)
    state["import finders"] = [
        finder
        for finder in sys.meta_path
        if getattr(type(finder), "__module__", "").startswith("surefoot")
    ]
    state["SIGINT handler"] = signal.getsignal(signal.SIGINT)
    state["default dtype"] = torch.get_default_dtype()
    state["gradients enabled"] = torch.is_grad_enabled()
    state["torch threads"] = torch.get_num_threads()
    return state


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    """Fail the test that leaves a hook, a patch, a thread or a changed setting behind."""
    before = traces()
    yield
    after = traces()
    left = {
        name: f"{before.get(name)!r} became {after.get(name)!r}"
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name)
    }
    assert not left, f"left behind by this test: {left}"


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, entered: run folders and reports land here and nowhere else."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
