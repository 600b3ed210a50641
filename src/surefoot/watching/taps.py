"""What listens inside the watched modules: the entry tap always, the others on chosen steps."""

from __future__ import annotations

import weakref

import numpy as np
from torch import nn

from surefoot.layers import LayerTable
from surefoot.probes.blocks import BlockTap, choose_blocks
from surefoot.probes.flow import FlowProbe
from surefoot.probes.safely import raise_failure
from surefoot.probes.tap import EntryTap
from surefoot.signals.flow import Flow

_MAX_ENTRIES = 8  # modules called by the script itself that are listened to
_MAX_MODULES = 20_000  # above which no step is instrumented


class Taps:
    """The hooks on the modules of a table, of which it holds no strong reference.

    entry: keeps a step's inputs, None if no module is known. blocks: indices of the layers whose
    outputs are sampled.
    """

    def __init__(self, table: LayerTable, modules: list[nn.Module]) -> None:
        self._table = table
        self._modules = [weakref.ref(m) for m in modules]
        self.blocks = choose_blocks(table)
        # Until the first step has shown which modules the script calls, they are the outermost.
        self._roots = [i for i, layer in enumerate(table.layers) if layer.parent is None]
        roots = [modules[i] for i in self._roots[:_MAX_ENTRIES] if modules]
        self.entry: EntryTap | None = EntryTap(roots) if roots else None
        self._block: BlockTap | None = None
        self._flow: FlowProbe | None = None
        self.instrument()

    def modules(self) -> list[nn.Module] | None:
        """The modules of the table, in its order; None if one of them is gone."""
        modules = [ref() for ref in self._modules]
        return None if any(m is None for m in modules) else modules  # type: ignore[return-value]

    def roots(self) -> list[tuple[str, nn.Module | None]]:
        """The outermost modules and their names."""
        return [(self._table.layers[i].name, self._modules[i]()) for i in self._roots]

    # -- an instrumented step -------------------------------------------------------------------

    @property
    def instrumented(self) -> bool:
        """Whether the step under way is instrumented."""
        return self._flow is not None

    def instrument(self) -> None:
        """Follow the next step through every module."""
        if (modules := self.modules()) is not None and len(modules) <= _MAX_MODULES:
            self._flow = FlowProbe(self._table, modules)
            self._flow.install()

    def collect(self, step: int) -> Flow | None:
        """What the instrumented step has shown; None if it was none."""
        if (probe := self._flow) is None:
            return None
        self._flow = None
        probe.remove()
        flow = probe.collect(step)
        raise_failure(probe)
        if probe.entries and self._block is None:
            self._listen(probe.entries[:_MAX_ENTRIES])
        return flow

    def _listen(self, entries: list[int]) -> None:
        """Listen where the script really calls the model, now that a step has shown it."""
        if (modules := self.modules()) is None:
            return
        self._block = BlockTap([modules[i] for i in self.blocks])
        if self.entry is None or entries != self._roots:
            if self.entry is not None:
                self.entry.remove()
            self.entry = EntryTap([_inner(modules[i]) for i in entries])

    # -- sampled steps --------------------------------------------------------------------------

    def sample(self) -> None:
        """Read the outputs of the blocks in the next step."""
        if self._block is not None:
            self._block.install()

    def sampled(self) -> tuple[float, np.ndarray] | None:
        """(seconds it took, [2 B] as `BlockTap.out`) of the step that ends; None if not sampled."""
        if self._block is None or not self._block.installed:
            return None
        self._block.remove()
        raise_failure(self._block)
        return self._block.seconds, self._block.out.reshape(-1)

    def remove(self) -> None:
        """Take every hook away; idempotent."""
        for part in (self._flow, self.entry, self._block):
            if part is not None:
                part.remove()
        self._flow = self.entry = self._block = None


def _inner(module: nn.Module) -> nn.Module:
    """The module itself where it is wrapped on its own: the wrapper would communicate again."""
    wrapped = isinstance(module, nn.parallel.DistributedDataParallel)
    return module.module if wrapped else module
