"""Kernels: five statistics of many tensors in one read of their memory.

>>> import numpy, torch
>>> from surefoot.kernels import make_pass
>>> out = numpy.empty((2, 5))
>>> make_pass(2)([torch.tensor([3.0, -4.0, 0.0]), None], out)
>>> out[0].tolist()
[5.0, 4.0, -0.3333333333333333, 0.0, 1.0]
>>> bool(numpy.isnan(out[1]).all())
True

On the CPU the C library serves where it was built and loads, on CUDA devices a Triton kernel where
Triton is installed and works, PyTorch operations elsewhere; the numbers are the same.
SUREFOOT_KERNEL picks one: "eager" everywhere, or "baseline", "avx2" or "avx512" to hold the library
to an instruction set that this CPU has. Triton is imported when the first tensor needs it.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from surefoot.kernels.availability import make_launcher, trouble
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.magnitudes import Magnitudes
from surefoot.kernels.magnitudes import make_magnitudes as _make_magnitudes
from surefoot.kernels.native import LEVELS, Library, NativePass, load
from surefoot.kernels.placed import PlacedPass
from surefoot.kernels.ring import HostWriter, Ring
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
    "Ring",
    "kernel_name",
    "kernel_reason",
    "make_magnitudes",
    "make_pass",
    "make_ring",
]

VARIABLE = "SUREFOOT_KERNEL"


def make_pass(capacity: int) -> Pass:
    """Return a pass for up to `capacity` tensors (more make it grow once); never raises.

    Make one per training: its buffers are its own.
    """
    level, _ = _choice()
    library = _library()
    host: Pass = EagerPass()
    if level is not None and isinstance(library, Library):
        host = NativePass(library, level, capacity)
    return PlacedPass(host, capacity) if _placed() else host


def make_magnitudes(capacity: int) -> Magnitudes:
    """Return what tells in which octaves the elements of tensors lie: see `magnitudes`."""
    return _make_magnitudes(_library() if _choice()[0] is not None else "not asked for", capacity)


def make_ring(count: int, device: torch.device, length: int = 16) -> Ring:
    """Return a ring for `count` tensors a step on a device, copied out every `length` steps."""
    host = HostWriter(make_pass(count))
    serving = make_launcher(device) if _placed() and device.type == "cuda" else None
    return Ring(count, length, serving or host, host)


def kernel_name() -> str:
    """Return the kernels that `make_pass` serves: "native-avx2", "native-avx2+triton"."""
    level, _ = _choice()
    name = EagerPass.name if level is None else f"native-{LEVELS[level]}"
    return f"{name}+triton" if _triton_was_asked() and trouble() is None else name


def kernel_reason() -> str | None:
    """Return why the fastest kernels are not served, or None where they are."""
    reasons = [_choice()[1], trouble() if _triton_was_asked() else None]
    return "; ".join(reason for reason in reasons if reason) or None


def _wish() -> str:
    return os.environ.get(VARIABLE, "").strip().lower().removeprefix("native-")


def _placed() -> bool:
    """Whether tensors on CUDA devices are to be told from others: this torch can have some."""
    return torch.backends.cuda.is_built() and _wish() != EagerPass.name


def _triton_was_asked() -> bool:
    """Whether this process uses a CUDA device, and so `trouble` knows of Triton by now."""
    if not (_placed() and torch.cuda.is_initialized()):
        return False
    make_launcher(torch.device("cuda"))
    return True


@cache
def _library() -> Library | str:
    return load()


def _choice() -> tuple[int | None, str | None]:
    """Return the native level to use (None: eager) and why it is not the fastest."""
    wish = _wish()
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
