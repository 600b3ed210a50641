"""The residual blocks of a model: which layers write to the stream, and what lies before them.

A block is one of several modules of one class in a ModuleList or a Sequential. In one call of the
model the graph that autograd has kept is walked back from a block's output: through additions, and
what may stand between (dropout, views, normalisation, an activation), to the block's own input and
to the layers whose outputs are added to it. These write to the residual stream.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.probes.statistics import float_tensors
from surefoot.remedies.initialization.measured import calling
from surefoot.remedies.subject import Subject
from surefoot.remedies.trace import FUNCTIONS

# What may stand between a layer that writes and the sum: autograd's names begin so.
_ADDING = ("Add", "Sub")
_BETWEEN = ("Mul", "Div", "View", "UnsafeView", "Reshape", "Transpose", "Permute", "Clone", "Alias")
_BETWEEN += ("ToCopy", "T", "NativeDropout", "Slice", "Select", "Unsqueeze", "Squeeze", "Split")
_NORMALIZING = ("NativeLayerNorm", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm")
_NORMALIZING += ("FusedRmsNorm",)
_MOST = 20_000  # nodes looked at in a block


@dataclass(slots=True)
class Branch:
    """One layer that writes to the stream, and the weighted layers before it.

    depth: weighted layers in series, the writer counted; normalized: whether its output is
    normalised before it is added.
    """

    block: nn.Module
    writer: nn.Module
    before: list[nn.Module]
    depth: int
    normalized: bool


@dataclass(slots=True)
class Block:
    """A repeated module at its first call. skip: whether its input is added to its output."""

    name: str
    module: nn.Module
    skip: bool = False
    same_shape: bool = False
    branches: list[Branch] = field(default_factory=list)


def candidates(subject: Subject) -> list[tuple[str, nn.Module]]:
    """(name, module) of the repeated modules with two weighted layers or more, outer ones first.

    Stages that are made of blocks are among them: what is a block is seen in a call.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16)
    >>> net = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    >>> [name for name, _ in candidates(Subject([net]))]
    ['0.layers.0', '0.layers.1']
    """
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in subject.modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        kinds = Counter(type(child) for child in module.children())
        for key, child in module.named_children():
            plain = type(child) in (nn.ModuleList, nn.ModuleDict)
            if kinds[type(child)] >= 2 and not plain and _weighted_inside(child) >= 2:
                found.setdefault(id(child), (f"{name}.{key}" if name else key, child))
    return list(found.values())


def _weighted_inside(module: nn.Module) -> int:
    return sum(kind_of(m).weighted for m in module.modules())


def branches(subject: Subject) -> list[Branch]:
    """The branches of all blocks that add their input to an output of its shape, as called.

    Raises NotApplicable without a call, or where the model refuses it.
    """
    found: dict[int, Branch] = {}
    for block in _seen(subject):
        if block.skip and block.same_shape:
            # Inner blocks come later: theirs is the better answer to what lies before a writer.
            found |= {id(branch.writer): branch for branch in block.branches}
    return list(found.values())


def _seen(subject: Subject) -> list[Block]:
    """The candidates as one call of the model shows them."""
    found = [Block(name, module) for name, module in candidates(subject)]
    layers = {
        id(m): m
        for root in subject.models
        for m in root.modules()
        if kind_of(m).weighted or kind_of(m) is Kind.ATTENTION
    }
    owners: dict[Any, nn.Module] = {}  # node -> the layer whose output it made
    seen: set[int] = set()

    def made(module: nn.Module, args: Any, output: Any) -> None:
        y = next(float_tensors(output), None)
        if y is not None and y.grad_fn is not None:
            owners[y.grad_fn] = module

    def entered(module: nn.Module, args: Any, kwargs: Any) -> Any:
        # A node of the block's own input, that a walk can end at.
        x = next(float_tensors((args, kwargs)), None)
        if x is None or id(module) in inputs:
            return None
        mark = x + torch.zeros_like(x, requires_grad=True)
        inputs[id(module)] = mark
        marked = {k: mark if v is x else v for k, v in kwargs.items()}
        return tuple(mark if a is x else a for a in args), marked

    def left(module: nn.Module, args: Any, output: Any) -> None:
        block = next(b for b in found if b.module is module)
        y, x = next(float_tensors(output), None), inputs.get(id(module))
        if y is None or x is None or y.grad_fn is None or id(module) in seen:
            return
        seen.add(id(module))
        block.same_shape = y.shape == x.shape
        _walk(block, y.grad_fn, x.grad_fn, owners)

    inputs: dict[int, torch.Tensor] = {}
    hooks = dict.fromkeys(layers, made) | {id(b.module): left for b in found}
    with calling(subject, hooks) as again:
        handles = [b.module.register_forward_pre_hook(entered, with_kwargs=True) for b in found]
        try:
            again()
        finally:
            for handle in handles:
                handle.remove()
    return [b for b in found if id(b.module) in seen]


def _walk(block: Block, end: Any, start: Any, owners: dict[Any, nn.Module]) -> None:
    """Find the skip and the branches between a block's input node and its output node."""
    trunk: set[Any] = set()
    writers: list[tuple[Any, bool]] = []
    queue: list[tuple[Any, bool, bool]] = [(end, False, False)]
    while queue and len(trunk) < _MOST:
        node, summed, normalized = queue.pop(0)
        if node in trunk:
            continue
        if node is start:
            block.skip = summed or block.skip
            continue
        if node in owners:
            if summed:
                writers.append((node, normalized))
            continue
        name = node.name().rpartition("::")[2]
        adding = name.startswith(_ADDING)
        if not adding and not name.startswith(_BETWEEN + _NORMALIZING) and name not in FUNCTIONS:
            continue
        trunk.add(node)
        beyond = not adding and (normalized or name.startswith(_NORMALIZING))
        queue += [(n, summed or adding, beyond) for n, _ in node.next_functions if n is not None]
    inside = {id(m) for m in block.module.modules()}
    for node, normalized in writers:
        own = {n: m for n, m in owners.items() if id(m) in inside}
        if node in own:
            before, depth = _before(node, start, trunk, own)
            branch = Branch(block.module, own[node], before, depth, normalized)
            block.branches.append(branch)


def _before(
    writer: Any, start: Any, trunk: set[Any], owners: dict[Any, nn.Module]
) -> tuple[list[nn.Module], int]:
    """The weighted layers that a writer's input comes from, up to the stream, and how many of them
    lie in series, the writer counted."""
    level = {writer: _layers(owners[writer])}
    found: dict[int, nn.Module] = {}
    queue = [writer]
    for _ in range(_MOST):
        if not queue:
            break
        node = queue.pop(0)
        for behind, _ in node.next_functions:
            if behind is None or behind in trunk or behind is start:
                continue
            here = level[node] + (_layers(owners[behind]) if behind in owners else 0)
            if here > level.get(behind, 0):
                level[behind] = here
                queue.append(behind)
                if behind in owners:
                    found[id(owners[behind])] = owners[behind]
    found.pop(id(owners[writer]), None)
    return list(found.values()), max(level.values())


def _layers(module: nn.Module) -> int:
    """Weighted layers in series inside: attention has one that reads and one that writes."""
    return 2 if kind_of(module) is Kind.ATTENTION else 1


def reading(module: nn.Module) -> list[nn.Parameter]:
    """The matrices of attention that read its input; none for other layers."""
    names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    found = [getattr(module, n, None) for n in names if kind_of(module) is Kind.ATTENTION]
    return [p for p in found if isinstance(p, nn.Parameter)]


def writing(module: nn.Module) -> nn.Module:
    """The layer whose matrix makes the output: of attention the output projection, else itself."""
    inner = getattr(module, "out_proj", None) if kind_of(module) is Kind.ATTENTION else None
    return inner if isinstance(inner, nn.Module) else module
