"""A pass that is made here alone must not speak to other processes: they would not answer.

A model may communicate in its forward or backward (SyncBatchNorm, a loss that gathers embeddings,
sharded parameters). Every collective of torch passes through its dispatcher, where it is stopped
before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from surefoot.kernels.pieces import is_distributed

_COLLECTIVE = ("c10d", "_c10d_functional", "c10d_functional", "_c10d_functional_autograd")


def refusal(modules: Iterable[nn.Module]) -> str:
    """Why these modules cannot run in one process without the others; empty if they may.

    >>> refusal([nn.Linear(2, 2)])
    ''
    """
    for module in modules:
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            return "SyncBatchNorm computes over the batches of all processes"
        whole = type(module).__name__ != "FullyShardedDataParallel"
        if not whole or any(map(is_distributed, module._parameters.values())):
            return "the parameters are sharded over several processes"
    return ""


class Spoken(Exception):
    """A pass was about to communicate, and was stopped."""


class Silence(TorchDispatchMode):
    """Inside of it every collective raises `Spoken`, in backward too; all else is as it was.

    >>> import torch
    >>> with Silence():
    ...     torch.ones(2).sum().item()
    2.0
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "namespace", "") in _COLLECTIVE:
            name = func.name().partition("::")[2].rstrip("_")
            raise Spoken(f"the model communicates with other processes ({name})")
        if any(hasattr(t, "placements") for t in types):
            return NotImplemented  # a DTensor: its own collectives come by here as plain ones
        return func(*args, **(kwargs or {}))
