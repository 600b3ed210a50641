"""A copy of a watched model, or a pickle of it, carries none of the hooks that watch it."""

from __future__ import annotations

from typing import Any

from torch import nn


def module_state(module: nn.Module) -> Any:
    """What `copy.deepcopy` and `pickle` take of a module: all but hooks marked `of_surefoot`.

    Stands in for the default `__getstate__` while a session runs; modules that define their own
    keep it.
    """
    state: Any = object.__getstate__(module)
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
        name: _without(value, ours) if "hooks" in name and isinstance(value, dict) else value
        for name, value in state.items()
    }


def _without(table: dict[int, Any], numbers: set[int]) -> dict[int, Any]:
    return type(table)((k, v) for k, v in table.items() if k not in numbers)
