"""Tensors that lie in pieces on several processes: torch's DTensor, and what is held of it here."""

from __future__ import annotations

from typing import Any

import torch


def is_distributed(tensor: Any) -> bool:
    """Whether it is a DTensor. Its module need not be imported to know.

    >>> is_distributed(torch.ones(2))
    False
    """
    return hasattr(tensor, "_spec") and hasattr(tensor, "_local_tensor")


def piece(tensor: Any) -> torch.Tensor:
    """What this process holds of a distributed tensor; any other as it is. Nothing is sent."""
    local = getattr(tensor, "_local_tensor", tensor)
    wait = getattr(local, "wait", None)  # a collective of the script's own is still under way
    return wait() if wait is not None else local
