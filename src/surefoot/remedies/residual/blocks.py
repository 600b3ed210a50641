"""The blocks of equal width in a model, around which a skip connection can be put."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.remedies.residual.passages import Passages
from surefoot.remedies.sites import Site
from surefoot.remedies.subject import NotApplicable, Subject

_FEW = 3  # blocks inside a block, from which on those are taken and not the one around them


@dataclass(slots=True, eq=False)
class Block:
    """What a skip connection goes around.

    module: the first module of the block, or all of it; length: of a run of a Sequential's children
    (0 for none), which is `around`; sites: where the activation behind an affine layer is called;
    written: whether it writes on its input; spatial: whether features are along dimension 1.
    """

    name: str
    module: nn.Module
    around: nn.Sequential | None = None
    length: int = 0
    sites: list[Site] = field(default_factory=list)
    written: bool = False
    spatial: bool = False


class Search:
    """Looks for blocks, from the outside to the inside. `found`, once `run`."""

    def __init__(self, subject: Subject, target: str | None) -> None:
        self.subject = subject
        self._names = {id(m): name for name, m in subject.modules()}
        self._targets = {id(m) for _, m in subject.modules(target)}
        self._families = {id(m) for _, parent in subject.modules() for m in _family(parent)}
        affine = [m for _, m in subject.weighted()]
        families = [m for _, m in subject.modules() if id(m) in self._families]
        self.passages = Passages(subject, [*affine, *families])
        self._taken: set[int] = set()
        self.skips = 0  # how many were left alone because they have skips

    def run(self) -> list[Block]:
        """All blocks, none inside another one. Raises NotApplicable where there is none."""
        found = [b for root in self.subject.models for b in self._below(root)]
        if len(found) <= self.skips and self.skips:  # one that is left over is no chain
            raise NotApplicable("it has skip connections already")
        if not found:
            raise NotApplicable("no block of it gives out what has the shape of its input")
        return found

    def _below(self, module: nn.Module) -> list[Block]:
        """The blocks inside a module."""
        runs = {b.module: b for b in self._runs(module)}
        inside = {id(c) for b in runs.values() for c in _children(b)}
        found: list[Block] = []
        for child in module.children():
            if child in runs:
                found.append(runs[child])
            elif id(child) not in inside and id(child) not in self._taken:
                self._taken.add(id(child))
                found += self._at(module, child)
        return found

    def _at(self, parent: nn.Module, child: nn.Module) -> list[Block]:
        """The child as a block, or else the blocks inside it."""
        if kind_of(child).weighted:
            return self._layer(parent, child)
        inner = self._below(child)
        if id(child) not in self._families or len(inner) >= _FEW or not self._meant(child):
            return inner
        return [self._block(child)] if self._fits(child) else inner

    def _meant(self, module: nn.Module) -> bool:
        """Whether the target names a module, or something in it, and it is not frozen."""
        trained = any(p.requires_grad for p in module.parameters())
        return trained and any(id(m) in self._targets for m in module.modules())

    def _fits(self, module: nn.Module) -> bool:
        """Whether all calls of a module keep the shape, and none of them has a skip."""
        passages = self.passages.of(module)
        if not passages or not all(p.even for p in passages):
            return False
        if any(self.passages.skipped(p) for p in passages):
            self.skips += 1
            return False
        return True

    def _block(self, module: nn.Module) -> Block:
        written = any(p.written for p in self.passages.of(module))
        first = next(m for m in module.modules() if kind_of(m).weighted)
        spatial = kind_of(first) is Kind.CONVOLUTION
        return Block(self._names.get(id(module), ""), module, written=written, spatial=spatial)

    def _runs(self, module: nn.Module) -> Iterator[Block]:
        """Runs of an affine layer and what follows up to the next one, in a plain Sequential."""
        if type(module).forward is not nn.Sequential.forward or not self.passages.of(module):
            return  # its children are called by somebody else
        assert isinstance(module, nn.Sequential)
        children = list(module)
        for i, first in enumerate(children):
            if not kind_of(first).weighted or not self._meant(first):
                continue
            after = list(takewhile(_light, children[i + 1 :]))
            while after and not self._even(first, after[-1]):
                after.pop()  # a view, say, that makes another shape of it
            if any(kind_of(m) in (Kind.ACTIVATION, Kind.OTHER) for m in after) and self._keeps(
                first, after[-1]
            ):
                block = self._block(first)
                block.around, block.length = module, 1 + len(after)
                yield block

    def _even(self, first: nn.Module, last: nn.Module) -> bool:
        """Whether a run gives out what has the shape of its input, and a gradient."""
        for passage in self.passages.of(first):
            end = self.passages.after(last, passage)
            if end is None or end.went != passage.came or None in (end.out, passage.marker):
                return False
        return bool(self.passages.of(first))

    def _keeps(self, first: nn.Module, last: nn.Module) -> bool:
        """Whether no call of an even run has a skip."""
        for passage in self.passages.of(first):
            end = self.passages.after(last, passage)
            assert end is not None
            if self.passages.skipped(passage, end.out):
                self.skips += 1
                return False
        return True

    def _layer(self, parent: nn.Module, layer: nn.Module) -> list[Block]:
        """An affine layer by itself, and the activation that its output is put through."""
        sites = [s for s in self.passages.recorded.sites if s.behind is layer]
        calls = self.passages.of(layer)
        followed = bool(sites) and len(sites) == len(calls)
        followed = followed and not any(s.gate for s in sites)
        followed = followed and all(s.shape == p.went[0] for s, p in zip(sites, calls, strict=True))
        if not (followed or isinstance(parent, nn.ModuleList)) or not self._meant(layer):
            return []
        if not self._fits(layer):
            return []
        block = self._block(layer)
        block.sites = sites if followed else []
        return [block]


def _children(block: Block) -> list[nn.Module]:
    """The modules of a run."""
    if block.around is None:
        return []
    children = list(block.around)
    start = next(i for i, m in enumerate(children) if m is block.module)
    return children[start : start + block.length]


def _family(parent: nn.Module) -> list[nn.Module]:
    """The children of a list that are of one kind and hold layers: blocks that are repeated."""
    if not isinstance(parent, (nn.Sequential, nn.ModuleList)):
        return []
    holding = [
        m
        for m in parent.children()
        if next(m.children(), None) is not None and any(kind_of(x).weighted for x in m.modules())
    ]
    kinds = [type(m).__name__ for m in holding]
    return [m for m, kind in zip(holding, kinds, strict=True) if kinds.count(kind) > 1]


def _light(module: nn.Module) -> bool:
    """Whether a module may follow an affine layer in its run."""
    kinds = (Kind.ACTIVATION, Kind.NORMALIZATION, Kind.DROPOUT, Kind.OTHER)
    if kind_of(module) not in kinds or next(module.children(), None) is not None:
        return False
    return kind_of(module) is not Kind.OTHER or next(module.parameters(), None) is None
