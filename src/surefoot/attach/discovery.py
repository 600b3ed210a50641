"""Finding the model behind a set of parameters, without patching `nn.Module`.

One pass over the garbage collector's objects when an optimizer is constructed: a script that
builds thousands of modules pays nothing while it builds them, and nothing is kept alive.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch
from torch import nn

from surefoot.compiler import compiler
from surefoot.layers import modules_of


def find_roots(parameters: Iterable[torch.Tensor]) -> list[nn.Module]:
    """The fewest outermost modules that own `parameters`, the one owning most of them first.

    A module held by another module is not outermost. Modules are compared by identity; objects
    whose class merely claims to be a module (proxies) are left alone. Cost: about 0.2 us for
    each object the collector tracks, once.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> find_roots(net[0].parameters())[0] is net
    True
    """
    wanted = {id(p) for p in parameters}
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]
    owners, parents = [], {}
    for module in modules:
        state = module.__dict__
        for child in state.get("_modules", {}).values():
            if child is not None:
                parents.setdefault(id(child), []).append(module)
        if any(id(p) in wanted for p in state.get("_parameters", {}).values() if p is not None):
            owners.append(module)
    roots: dict[int, nn.Module] = {}
    for owner in owners:
        for root in _climb(owner, parents):
            roots[id(root)] = root
    return _cover(list(roots.values()), wanted)


def _cover(roots: list[nn.Module], wanted: set[int]) -> list[nn.Module]:
    """The fewest roots that own all of `wanted` that any owns; of two alike, the smaller one."""
    owned = {id(r): wanted & {id(p) for p in r.parameters()} for r in roots}
    size = {id(r): sum(1 for _ in r.modules()) for r in roots}
    chosen, left = [], set(wanted)
    while roots:
        best = max(roots, key=lambda r: (len(owned[id(r)] & left), -size[id(r)]))
        if not owned[id(best)] & left:
            break
        chosen.append(best)
        left -= owned[id(best)]
        roots = [r for r in roots if r is not best]
    return chosen


def _climb(module: nn.Module, parents: dict[int, list[nn.Module]]) -> list[nn.Module]:
    """The outermost holders of a module, following every chain of parents once."""
    seen, stack, tops = set(), [module], []
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        above = parents.get(id(current), [])
        stack += above
        if not above:
            tops.append(current)
    return tops or [module]


def compiled_forms() -> list[nn.Module]:
    """What torch.compile has made of modules so far, as far as it lives; costs as `find_roots`."""
    kind = getattr(getattr(compiler(), "eval_frame", None), "OptimizedModule", None)
    return [m for m in gc.get_objects() if type(m) is kind] if kind is not None else []


def leaf_parameters(loss: torch.Tensor, limit: int = 100_000) -> list[torch.Tensor]:
    """The leaf tensors that a backward of `loss` would reach, in graph order."""
    seen, stack, leaves = set(), [loss.grad_fn], []
    while stack and len(seen) < limit:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.append(variable)
        stack += [n for n, _ in node.next_functions]
    return leaves


def owners(roots: Iterable[tuple[str, nn.Module | None]], tensors: list[torch.Tensor]) -> list[str]:
    """Names of the modules below some roots, given by name, that own any of the tensors."""
    wanted = {id(t) for t in tensors}
    return [
        name
        for prefix, root in roots
        if root is not None
        for name, module in modules_of(root, prefix)
        if any(id(p) in wanted for p in module._parameters.values() if p is not None)
    ]
