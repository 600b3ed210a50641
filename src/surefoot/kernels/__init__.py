"""Kernels: five statistics of many tensors in one read of their memory.

>>> import numpy, torch
>>> from surefoot.kernels import make_pass
>>> out = numpy.empty((2, 5))
>>> make_pass(2)([torch.tensor([3.0, -4.0, 0.0]), None], out)
>>> out[0].tolist()
[5.0, 4.0, -0.3333333333333333, 0.0, 1.0]
>>> bool(numpy.isnan(out[1]).all())
True

The C library serves where it was built and loads, PyTorch operations elsewhere; the numbers are
the same. SUREFOOT_KERNEL picks one: "eager", or "baseline", "avx2" or "avx512" to hold the library
to an instruction set that this CPU has.
"""

from __future__ import annotations

import os
from functools import cache

from surefoot.kernels.eager import EagerPass
from surefoot.kernels.native import LEVELS, Library, NativePass, load
from surefoot.kernels.statistics import (
    MAXABS,
    MEAN,
    NONFINITE,
    NORM,
    STATISTICS,
    ZEROS,
    Pass,
)

__all__ = [
    "MAXABS",
    "MEAN",
    "NONFINITE",
    "NORM",
    "STATISTICS",
    "ZEROS",
    "Pass",
    "kernel_name",
    "kernel_reason",
    "make_pass",
]

VARIABLE = "SUREFOOT_KERNEL"


def make_pass(capacity: int) -> Pass:
    """Return a pass for up to `capacity` tensors (more make it grow once); never raises.

    Make one per training: its buffers are its own.
    """
    level, _ = _choice()
    library = _library()
    if level is None or isinstance(library, str):
        return EagerPass()
    return NativePass(library, level, capacity)


def kernel_name() -> str:
    """Return the name of the kernel that `make_pass` serves, for instance "native-avx2"."""
    level, _ = _choice()
    return EagerPass.name if level is None else f"native-{LEVELS[level]}"


def kernel_reason() -> str | None:
    """Return why the fastest kernel is not served, or None where it is."""
    return _choice()[1]


@cache
def _library() -> Library | str:
    return load()


def _choice() -> tuple[int | None, str | None]:
    """Return the native level to use (None: eager) and why it is not the fastest."""
    wish = os.environ.get(VARIABLE, "").strip().lower().removeprefix("native-")
    if wish == EagerPass.name:
        return None, f"{VARIABLE} asks for it"
    library = _library()
    if isinstance(library, str):
        return None, library
    if not wish:
        return library.best, None
    if wish not in LEVELS:
        known = ", ".join((EagerPass.name, *LEVELS))
        return library.best, f"{VARIABLE}={wish} is unknown (known: {known}) and was ignored"
    level = LEVELS.index(wish)
    if level > library.best:
        return library.best, f"{VARIABLE}={wish} was ignored: this CPU has no {wish}"
    return level, None if level == library.best else f"{VARIABLE} asks for it"
