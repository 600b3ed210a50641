"""The running statistics of normalisations: a batch that is skipped must not stay in them.

They are written by the forward pass, before any gradient tells that the batch is bad. One NaN would
stay in them for good and show only in evaluation.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import nn

from surefoot.kernels.pieces import piece

_MOST = 1 << 20  # numbers: to keep more at every step would be felt


class RunningStatistics:
    """Of the modules below some roots, as they were after the last step that was taken."""

    def __init__(self, roots: Iterable[nn.Module]) -> None:
        found: dict[int, torch.Tensor] = {}
        for root in roots:
            for module in root.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    found |= {id(b): b for b in module.buffers(recurse=False)}
        live = [piece(b) for b in found.values()]
        if sum(b.numel() for b in live) > _MOST:
            live = []
        self._live = [weakref.ref(b) for b in live]
        self._kept = [b.detach().clone() for b in live]

    def note(self) -> None:
        """Keep them: a step has been taken."""
        if self._kept:
            self._copy(to_live=False)

    def put_back(self) -> None:
        """A step is skipped."""
        if self._kept:
            self._copy(to_live=True)

    def _copy(self, to_live: bool) -> None:
        live = [ref() for ref in self._live]
        there = [(a, b) for a, b in zip(live, self._kept, strict=True) if a is not None]
        if not there:
            return
        ours, kept = map(list, zip(*there, strict=True))
        with torch.no_grad():
            if to_live:
                torch._foreach_copy_(ours, kept)
            else:
                torch._foreach_copy_(kept, ours)
