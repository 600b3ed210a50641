"""PyTorch's C table for the exchange of tensors (DLPack 1.3), where this PyTorch has one.

It is a published interface between frameworks, whose layout is fixed for its major version 1. One
call through it tells of a tensor all that six attributes do, at a tenth of their price.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

_MAJOR = 1
_CAPSULE = b"dlpack_exchange_api"

# (list of tensors, how many, addresses, counts, kinds, bytes) -> tensors of one element, or -1
Locate = Callable[[list[torch.Tensor | None], int, int, int, int, int], int]


class _Table(ctypes.Structure):
    """DLPackExchangeAPI of dlpack.h."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("managed_to_object", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),
        ("current_stream", ctypes.c_void_p),
    )


def find_locate(library: Path) -> Locate | None:
    """The library's `surefoot_locate` on PyTorch's table, None where either lacks its part."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:  # PyTorch before 2.10
        return None
    try:
        python = ctypes.pythonapi
        python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        python.PyCapsule_GetPointer.restype = ctypes.c_void_p
        table = _Table.from_address(python.PyCapsule_GetPointer(capsule, _CAPSULE))
        if table.major != _MAJOR or not table.describe:
            return None
        locate = ctypes.PyDLL(str(library)).surefoot_locate  # keeps the GIL, raises Python's errors
        pointer = ctypes.c_void_p
        locate.argtypes = (*[pointer] * 3, ctypes.py_object, ctypes.c_int64, *[pointer] * 4)
        locate.restype = ctypes.c_int64
        item = ctypes.cast(python.PyList_GetItem, pointer)
        return partial(locate, table.describe, item, id(None))
    except (AttributeError, OSError, TypeError, ValueError):
        return None
