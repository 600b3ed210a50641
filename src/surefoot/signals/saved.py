"""Whether what an operation saved for backward lies with hooks of the script's.

To read it would call them, and they may give each thing away only once. PyTorch says so of each
tensor; older releases do not, and there any such hooks that were in force since somebody began to
listen count for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

_TELLS = hasattr(torch._C._autograd.SavedTensor, "unpack_hook")


class _Seen:
    """listeners: how many there are; used: whether hooks were in force since the first came."""

    listeners = 0
    used = False


def listen(wrap: Callable[..., Any]) -> Callable[[], None] | None:
    """Have a look at who uses such hooks, until what is returned is called; None where torch tells.

    wrap: as `attach.wrapping.wrap`.
    """
    if _TELLS:
        return None

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def __enter__(hooks: Any) -> Any:
            _Seen.used = True
            return original(hooks)

        return __enter__

    if not _Seen.listeners:
        _Seen.used = _in_force()
    _, restore = wrap(saved_tensors_hooks, "__enter__", make)
    _Seen.listeners += 1

    def end() -> None:
        _Seen.listeners -= 1
        _Seen.used = _Seen.used and _Seen.listeners > 0
        restore()

    return end


def _in_force() -> bool:
    """Whether such hooks are on now: they cannot be disabled then."""
    graph = torch._C._autograd
    if graph._saved_tensors_hooks_get_disabled_error_message() is not None:
        return False
    try:
        graph._saved_tensors_hooks_disable("not while surefoot asks")
    except RuntimeError:
        return True
    finally:
        graph._saved_tensors_hooks_enable()
    return False


def through_hooks(raw: Any) -> bool:
    """Whether to read a saved tensor, or a list of them, would call hooks of the script's.

    raw: `node._raw_saved_NAME`.
    """
    first = raw[0] if isinstance(raw, (tuple, list)) and raw else raw
    if not _TELLS:
        return first is not None and _Seen.used
    return getattr(first, "unpack_hook", None) is not None
