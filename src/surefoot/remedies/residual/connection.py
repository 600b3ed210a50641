"""What skip connections share: how they are put around the blocks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from surefoot.remedies.activation.substitution import ELEMENTWISE
from surefoot.remedies.features import standardised
from surefoot.remedies.interception import Interception, wrap_apart
from surefoot.remedies.residual.blocks import Block, Search
from surefoot.remedies.sites import Site
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment

SCALE = "residual_scale"


class Connection(Treatment):
    """x + a block(x) for every block of equal width.

    learned: whether a is a parameter, which begins at 0, or 1 / sqrt(blocks); normalised: whether
    the block is given its input standardised.
    """

    learned: ClassVar[bool]
    normalised: ClassVar[bool] = False

    def apply(self, subject: Subject) -> None:
        """Find the blocks and put a connection around each."""
        search = Search(subject, self.target)
        blocks = search.run()
        share = None if self.learned else 1 / math.sqrt(len(blocks))
        skips = {block: Skip(block, share, self.normalised) for block in blocks}
        if self.learned:
            for block in blocks:
                subject.add(block.module, SCALE, _zero(block.module))
        runs: dict[nn.Sequential, list[Skip]] = {}
        for block, skip in skips.items():
            if block.around is not None:
                runs.setdefault(block.around, []).append(skip)
            elif not block.sites:
                subject.wrap(block.module, skip.around)
        for sequence, inside in runs.items():
            starts = {_index(sequence, s.block.module): s for s in inside}
            subject.wrap(sequence, partial(_in_turn, starts, len(sequence)))
        _through_calls(subject, search.passages.recorded.sites, list(skips.values()))


class Skip:
    """The connection around one block. share: its factor, None for the module's own parameter."""

    def __init__(self, block: Block, share: float | None, normalised: bool) -> None:
        self.block, self.share, self.normalised = block, share, normalised

    def given(self, x: torch.Tensor) -> torch.Tensor:
        """What the block is called with."""
        if self.normalised:
            return standardised(x, self.block.spatial)
        return x.clone() if self.block.written else x

    def join(self, x: torch.Tensor, y: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """The sum, where both have one shape."""
        if not isinstance(y, torch.Tensor) or y.shape != x.shape:
            return y
        return x + (getattr(module, SCALE) if self.share is None else self.share) * y

    def around(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        """For `Subject.wrap`, of a module that is the whole block."""
        if not args or not isinstance(args[0], torch.Tensor):
            return inner(*args, **kwargs)
        y = inner(self.given(args[0]), *args[1:], **kwargs)
        return self.join(args[0], y, owner(inner, self.block.module))


def owner(inner: Any, module: nn.Module) -> nn.Module:
    """The module whose forward `inner` is: a copy of a model has parameters of its own."""
    found = getattr(inner, "__self__", module)
    return found if isinstance(found, nn.Module) else module


def _zero(module: nn.Module) -> torch.Tensor:
    like = next(p for p in module.parameters() if p.is_floating_point())
    return torch.zeros((), device=like.device, dtype=like.dtype)


def _index(sequence: nn.Sequential, module: nn.Module) -> int:
    return next(i for i, m in enumerate(sequence) if m is module)


def _in_turn(starts: dict[int, Skip], length: int, inner: Any, x: Any) -> Any:
    """The children of a Sequential in turn, with connections around some runs."""
    children = list(inner.__self__)
    if len(children) != length:  # a slice of it, which has its class
        return inner(x)
    i = 0
    while i < len(children):
        skip = starts.get(i)
        if skip is None:
            x = children[i](x)
            i += 1
            continue
        y = skip.given(x)
        for child in children[i : i + skip.block.length]:
            y = child(y)
        x = skip.join(x, y, children[i])
        i += skip.block.length
    return x


class _Pending(threading.local):
    """Of one thread: what went into the blocks whose activation is still to come."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[torch.Tensor, nn.Module]] = {}


def _through_calls(subject: Subject, sites: list[Site], skips: list[Skip]) -> None:
    """Connections around an affine layer and an activation that is called by itself."""
    skips = [s for s in skips if s.block.sites]
    if not skips:
        return
    pending = _Pending()

    def keep(number: int, skip: Skip, inner: Any, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs.pop("input")
        pending.of[number] = x, owner(inner, skip.block.module)
        return inner(skip.given(x), *args[1:], **kwargs)

    def join(number: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        y = function(*args, **kwargs)
        if number not in pending.of:
            return y
        x, module = pending.of.pop(number)
        return skips[number].join(x, y, module)

    chosen = {site: number for number, s in enumerate(skips) for site in s.block.sites}
    Interception(ELEMENTWISE, join).install(subject, sites, chosen)
    for number, skip in enumerate(skips):
        wrap_apart(subject, skip.block.module, partial(keep, number, skip))
