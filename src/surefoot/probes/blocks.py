"""Activation and gradient scale at block outputs, on the steps that are sampled for it."""

from __future__ import annotations

import time
import weakref
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.kernels import NORM, make_pass
from surefoot.layers import LayerTable
from surefoot.probes.module_hooks import Placed, Unseen, place
from surefoot.probes.restoring import thoroughly
from surefoot.probes.safely import safely
from surefoot.probes.statistics import float_tensors

_MAX_BLOCKS = 32
_AROUND = 3e-5  # seconds that a hook costs besides what it does: installing, calling, removing it


def choose_blocks(table: LayerTable) -> list[int]:
    """Indices of the layers to watch: repeated blocks, or else the weighted layers; at most 32.

    A block is a child of the longest list of siblings of one type (the blocks of a transformer or
    a residual network).
    """
    families: dict[tuple[int | None, str], list[int]] = {}
    for i, layer in enumerate(table.layers):
        if layer.name and not layer.leaf:
            families.setdefault((layer.parent, layer.type), []).append(i)
    blocks = [i for family in families.values() if len(family) >= 3 for i in family]
    # Of blocks inside blocks the outer ones are the trunk: the others may have another width.
    blocks = [i for i in blocks if not _inside(table, i, set(blocks))]
    if not blocks:
        blocks = [i for i, layer in enumerate(table.layers) if layer.kind.weighted]
    stride = -(-len(blocks) // _MAX_BLOCKS) or 1
    return blocks[::-1][::stride][::-1]


def _inside(table: LayerTable, layer: int, blocks: set[int]) -> bool:
    """Whether a layer lies inside one of the blocks."""
    parent = table.layers[layer].parent
    while parent is not None and parent not in blocks:
        parent = table.layers[parent].parent
    return parent is not None


class BlockTap:
    """Writes `out` [B, 2] (activation rms, gradient norm) while installed; NaN if not called.

    seconds: what that took since `install`.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = [weakref.ref(m) for m in modules]
        self.failure: Exception | None = None
        self._handles: list[Placed] = []
        self._pass = make_pass(1)
        self._row = np.empty((1, 5))
        self.out = np.full((len(modules), 2), np.nan)
        self.seconds = 0.0

    @property
    def installed(self) -> bool:
        """Whether a sample is under way."""
        return bool(self._handles)

    def install(self) -> None:
        """Hook the blocks and forget the last sample."""
        self.out.fill(np.nan)
        self.seconds = 0.0
        for i, ref in enumerate(self._modules):
            module = ref()
            if module is not None and (hook := place(module, None, partial(self._leave, i))):
                self._handles.append(hook)

    def remove(self) -> None:
        """Take the hooks away."""
        thoroughly([handle.remove for handle in self._handles])
        self._handles.clear()

    @safely
    def _leave(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        # What checkpointing runs again was seen, unless it ran without gradients before.
        again = torch._C._current_graph_task_id() != -1 and not np.isnan(self.out[index, 0])
        if again or not torch.is_grad_enabled():
            return
        y = next(float_tensors(output), None)
        if y is None:
            return
        self.out[index, 0] = self._norm(y) / max(y.numel(), 1) ** 0.5
        if y.requires_grad:
            y.register_hook(Unseen(partial(self._gradient, index)))

    @safely
    def _gradient(self, index: int, gradient: torch.Tensor | None) -> None:
        if gradient is not None:
            self.out[index, 1] = self._norm(gradient)

    def _norm(self, tensor: torch.Tensor) -> float:
        begin = time.perf_counter()
        self._pass([tensor.detach()], self._row)
        self.seconds += time.perf_counter() - begin + _AROUND
        return float(self._row[0, NORM])
