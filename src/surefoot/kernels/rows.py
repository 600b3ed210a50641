"""Rows of statistics on the device that computes them, and what a device's work needs to know."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(slots=True, eq=False)
class Rows:
    """Where rows are written: float64 [length, height, 5], taking turns by step.

    stamps: int64 [length], the step that each place holds, -1 before the first; steps: int64 [1],
    the step to come. All on one device; the kernel counts there, so a graph's replays count too.
    """

    values: torch.Tensor
    stamps: torch.Tensor
    steps: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, length: int, height: int, step: int = 0) -> Rows:
        """Return rows that nothing was written to, for steps from `step` on."""
        whole = {"dtype": torch.int64, "device": device}
        with torch.inference_mode(False):
            return cls(
                torch.full((length, height, 5), torch.nan, dtype=torch.float64, device=device),
                torch.full((length,), -1, **whole),
                torch.full((1,), step, **whole),
            )


def at(device: torch.device) -> AbstractContextManager[object]:
    """Make a CUDA device the current one for a while; nothing for the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def capturing(device: torch.device) -> bool:
    """Whether what is launched there now becomes part of a CUDA graph instead of running."""
    if device.type != "cuda":
        return False
    with at(device):
        return torch.cuda.is_current_stream_capturing()
