"""A plugin of pytest that puts the Triton kernel, interpreted, in the place of all other kernels.

test_kernels_triton.py runs the shared tests under it in a process of its own: TRITON_INTERPRET must
be set before Triton is imported, and holds for the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

import kernels_fixture
from surefoot.kernels import triton
from surefoot.kernels.launcher import Launcher
from surefoot.kernels.placed import TritonPass

np.seterr(over="ignore", invalid="ignore", under="ignore")  # a device does not warn either


def interpreted() -> TritonPass:
    return TritonPass(Launcher(torch.device("cpu")), 1)  # too small on purpose: it must grow


def call_by_another(self: InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
    """One function called by another, without all of the language being patched again."""
    if self.fn.__module__ in PATCHED:
        return self.rewrite()(*args, **kwargs)
    PATCHED.add(self.fn.__module__)
    return BY_TRITON(self, *args, **kwargs)


PATCHED: set[str] = set()
BY_TRITON = InterpretedFunction.__call__
InterpretedFunction.__call__ = call_by_another  # ten times as quick

# Tiles in one strip, another four times as quick; test_triton_tiles.py has them as they ship.
SHIPPED = triton.FORMATS
triton.FORMATS = tuple(format | {"STRIP": format["TILE"]} for format in SHIPPED)

maker = pytest.param(interpreted, id="triton")
kernels_fixture.every_kernel = pytest.mark.parametrize("make", [maker])
