"""Whether Triton serves in this process, and why not.

It is imported and its kernels compiled when the first tensor on a CUDA device asks for them. From
its first failure on the eager pass reads such tensors, and `trouble` says why.
"""

from __future__ import annotations

import torch

from surefoot.kernels.addresses import KINDS
from surefoot.kernels.launcher import Launcher
from surefoot.kernels.rows import capturing

_trouble: str | None = None


def trouble() -> str | None:
    """Return why Triton does not serve, or None where it does or nothing has asked for it."""
    return _trouble


def give_up(error: Exception) -> None:
    """Leave what lies on CUDA devices to the eager pass, for the rest of the process."""
    global _trouble
    if _trouble is None:
        words = str(error).strip().partition("\n")[0]
        _trouble = f"Triton does not work here ({type(error).__name__}: {words})"


def make_launcher(device: torch.device) -> Launcher | None:
    """Return a launcher that was seen to compute the right numbers there.

    None where Triton does not serve and, for the time being, while a CUDA graph is captured.
    """
    if _trouble is not None or capturing(device):
        return None
    try:
        made = Launcher(device)
        made.try_out(KINDS[torch.float32])
    except Exception as error:
        give_up(error)
        return None
    return made
