"""Processes that a script starts by `torch.multiprocessing.spawn` to train in."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch


def also_in_spawned(wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Have what is to run in spawned processes go through `wrap`; returns the undo.

    Forked processes are left out: they are born with what their parent has begun.
    """
    module: Any = sys.modules["torch.multiprocessing.spawn"]  # its package hides it by a function
    original = module.start_processes

    @functools.wraps(original)
    def start_processes(fn: Any, *args: Any, **kwargs: Any) -> Any:
        method = args[4] if len(args) > 4 else kwargs.get("start_method", "spawn")
        return original(fn if method == "fork" else wrap(fn), *args, **kwargs)

    def undo() -> None:
        for owner in (module, torch.multiprocessing):
            if owner.start_processes is start_processes:
                owner.start_processes = original

    module.start_processes = torch.multiprocessing.start_processes = start_processes
    return undo
