"""What listens inside the watched modules: the entry tap always, the others on chosen steps."""

from __future__ import annotations

import weakref
from collections.abc import Collection

import numpy as np
from torch import nn

from surefoot.compiler import has_compiled
from surefoot.layers import LayerTable, unwrap
from surefoot.probes.blocks import BlockTap, choose_blocks
from surefoot.probes.compiled_calls import compiled_in_place
from surefoot.probes.flow import FlowProbe
from surefoot.probes.restoring import thoroughly
from surefoot.probes.safely import failed
from surefoot.probes.tap import EntryTap
from surefoot.signals.flow import Flow

_MAX_ENTRIES = 8  # modules called by the script itself that are listened to
_MAX_MODULES = 20_000  # above which no step is instrumented


class Taps:
    """The hooks on the modules of a table, of which it holds no strong reference.

    entry: keeps a step's inputs, None if no module is known. blocks: indices of the layers whose
    outputs are sampled. sharded: whether modules compute with pieces of tensors, so that no step is
    instrumented and no block sampled.
    """

    def __init__(
        self, table: LayerTable, modules: list[nn.Module], forms: Collection[nn.Module] = ()
    ) -> None:
        self._table = table
        self._modules = [weakref.ref(m) for m in modules]
        self.blocks = choose_blocks(table)
        # Until the first step has shown which modules the script calls, they are the outermost.
        self._roots = [i for i, layer in enumerate(table.layers) if layer.parent is None]
        roots = [modules[i] for i in self._roots[:_MAX_ENTRIES] if modules]
        self.entry: EntryTap | None = EntryTap(roots) if roots else None
        self._forms: list[tuple[weakref.ref[nn.Module], weakref.ref[nn.Module]]] = []
        self._compiled = False  # or called by what was
        self.blind = ""  # why the flow of a compiled step could not be made again
        self._due = False
        self._block: BlockTap | None = None
        self._flow: FlowProbe | None = None
        self._broken = False  # a probe has failed, and would again
        self.sharded = False
        for form in forms:
            self.compiled(unwrap(form), form)
        self.instrument()

    def modules(self) -> list[nn.Module] | None:
        """The modules of the table, in its order; None if one of them is gone."""
        modules = [ref() for ref in self._modules]
        return None if any(m is None for m in modules) else modules  # type: ignore[return-value]

    def roots(self) -> list[tuple[str, nn.Module | None]]:
        """The outermost modules and their names."""
        return [
            (self._table.layers[i].name, self._modules[i]() if self._modules else None)
            for i in self._roots
        ]

    # -- compiled parts -------------------------------------------------------------------------

    def compiled(self, module: nn.Module, form: nn.Module) -> None:
        """A form was compiled of a module, or the module itself; any may be one of the table's."""
        module = unwrap(module)
        if not any(ref() is module for ref in self._modules):
            return
        self._compiled = True
        self._forms = [known for known in self._forms if known[1]() is not None]
        if self._flow is not None:  # it would see a part of the step; that is made again
            self._flow.remove()
            self._flow = None
        self._forms.append((weakref.ref(module), weakref.ref(form)))
        if self.entry is not None:
            self.entry.open_door(module, form)

    def unseen(self, flow: Flow, fed: np.ndarray) -> bool:
        """Whether the modules of an instrumented step ran in a graph, at least in part.

        fed [P]: whether a parameter had a gradient in that step.
        """
        if not self._compiled and has_compiled():
            # A function that was compiled may have called them: then few of them were seen.
            owners = {self._table.parameters[i].layer for i in np.flatnonzero(fed)}
            seen = owners & {call.layer for call in flow.calls}
            modules = self.modules() or ()
            in_place = any(map(compiled_in_place, modules))
            # Tensors of no module are called by none, whatever else was compiled.
            self._compiled = bool(modules) and (in_place or 2 * len(seen) < len(owners))
        return self._compiled

    # -- an instrumented step -------------------------------------------------------------------

    @property
    def instrumented(self) -> bool:
        """Whether the step under way is instrumented."""
        return self._due

    def instrument(self) -> None:
        """Follow the next step through every module."""
        if self.sharded or self._broken:
            return
        if (modules := self.modules()) is not None and len(modules) <= _MAX_MODULES:
            self._due = True
            if not self._compiled:
                self._flow = FlowProbe(self._table, modules)
                self._flow.install()

    def collect(self, step: int) -> Flow | None:
        """What the instrumented step has shown; None if it was none."""
        due, self._due = self._due, False
        if (probe := self._flow) is None:
            return Flow(step, []) if due else None
        probe.remove()
        self._flow = flow = None
        try:
            flow = probe.collect(step)
        except Exception as error:
            probe.failure = error
        if failed(probe):
            self._broken = True
            return None
        if probe.sharded:
            self.sharded = True
            return None
        if probe.entries and self._block is None and not self._broken:
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
            for module, form in self._forms:
                if (known := module()) is not None and (door := form()) is not None:
                    self.entry.open_door(known, door)

    # -- sampled steps --------------------------------------------------------------------------

    def sample(self) -> None:
        """Read the outputs of the blocks in the next step."""
        if self._block is not None and not self._compiled:
            self._block.install()

    def sampled(self) -> tuple[float, np.ndarray] | None:
        """(seconds it took, [2 B] as `BlockTap.out`) of the step that ends; None if not sampled."""
        if self._block is None or not self._block.installed:
            return None
        self._block.remove()
        if failed(self._block):
            self._block, self._broken = None, True
            return None
        return self._block.seconds, self._block.out.reshape(-1)

    def remove(self) -> None:
        """Take every hook away; idempotent."""
        parts = (self._flow, self.entry, self._block)
        thoroughly([part.remove for part in parts if part is not None])
        self._flow = self.entry = self._block = None


def _inner(module: nn.Module) -> nn.Module:
    """The module itself where it is wrapped on its own: the wrapper would communicate again."""
    wrapped = isinstance(module, nn.parallel.DistributedDataParallel)
    return module.module if wrapped else module
