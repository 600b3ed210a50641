"""A copy of a watched model, or a pickle of it, carries none of the hooks that watch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def leave_hooks_out_of_copies() -> Callable[[], None]:
    """Have `copy.deepcopy` and `pickle` leave out hooks marked `of_surefoot`; returns the undo.

    Replaces `nn.Module.__getstate__`, which only they call; modules with their own keep it.
    """
    own = vars(nn.Module).get("__getstate__")
    original: Any = nn.Module.__getstate__  # that of `object` if torch has none

    def getstate(module: nn.Module) -> Any:
        return _without_hooks(original(module))

    nn.Module.__getstate__ = getstate  # type: ignore[method-assign, assignment]

    def undo() -> None:
        if vars(nn.Module).get("__getstate__") is not getstate:
            return  # patched after us: ours stays, and finds no hooks to leave out
        if own is not None:
            nn.Module.__getstate__ = own
        else:
            del nn.Module.__getstate__

    return undo


def _without_hooks(state: Any) -> Any:
    """A module's state without our hooks and what marks them; the same if it has none."""
    if not isinstance(state, dict):  # (attributes, slots) of a class with slots
        return state
    ours = {
        number
        for table in ("_forward_hooks", "_forward_pre_hooks")
        for number, hook in (state.get(table) or {}).items()
        if getattr(hook, "of_surefoot", False)
    }
    if not ours:
        return state
    return {
        name: _drop(value, ours) if "hooks" in name and isinstance(value, dict) else value
        for name, value in state.items()
    }


def _drop(table: dict[int, Any], numbers: set[int]) -> dict[int, Any]:
    return type(table)((k, v) for k, v in table.items() if k not in numbers)
