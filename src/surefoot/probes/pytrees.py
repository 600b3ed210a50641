"""The tensors inside arguments, outputs and attributes, whatever holds them.

torch's own walk over nested structures knows tuples, lists, dictionaries and what was registered
with it. Models are also called with, and return, plain dataclasses and objects (the batches of
graph libraries, the encodings of tokenizers): those are looked into by their attributes.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

_PLAIN = (str, bytes, int, float, complex, type(None), np.ndarray, torch.dtype, torch.device)
_OPAQUE = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    weakref.ProxyType,
    weakref.CallableProxyType,
    nn.Module,
)
_DEPTH = 4  # of objects within objects
_MOST = 2_000  # things looked at in one structure


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors among the leaves of a structure of arguments or outputs, in order.

    >>> [int(t) for t in tensors_of({"a": torch.tensor(1), "b": [torch.tensor(2), "c"]})]
    [1, 2]
    """
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, (tuple, list, dict)):
        flat = flat_tensors(tree.values() if isinstance(tree, dict) else tree)
        if flat is not None:
            return flat
    found: list[torch.Tensor] = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif not isinstance(leaf, _PLAIN):
            found += _inside(leaf)
    return found


def tensors_in_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors of a call's arguments."""
    flat = flat_tensors((*args, *kwargs.values()) if kwargs else args)
    return tensors_of((args, kwargs)) if flat is None else flat


def flat_tensors(items: Iterable[Any]) -> list[torch.Tensor] | None:
    """The tensors among these, None if any is a structure: no need for the general walk, as a
    rule."""
    found: list[torch.Tensor] = []
    for x in items:
        if isinstance(x, torch.Tensor):
            found.append(x)
        elif not isinstance(x, _PLAIN):
            return None
    return found


def objects_of(tree: Any) -> list[Any]:
    """The leaves of a structure that torch's own walk cannot take apart, and that are not plain."""
    return [x for x in tree_leaves(tree) if not isinstance(x, (torch.Tensor, *_PLAIN))]


def attributes_of(x: Any) -> dict[str, Any] | None:
    """An object's own attributes, as the dictionary that holds them; None of what has none.

    Classes, functions, modules of either kind and torch's own objects (an optimizer, say) are not
    looked into.
    """
    if isinstance(x, _OPAQUE) or type(x).__module__.partition(".")[0] == "torch":
        return None
    return getattr(x, "__dict__", None)


def _inside(start: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Any, int]] = [(start, 0)]
    while stack and len(seen) < _MOST:
        x, depth = stack.pop()
        if isinstance(x, torch.Tensor):
            found.append(x)
        elif not isinstance(x, _PLAIN) and id(x) not in seen and depth <= _DEPTH:
            seen.add(id(x))
            stack += [(child, depth + 1) for child in reversed(list(_children(x)))]
    return found


def _children(x: Any) -> Iterable[Any]:
    if isinstance(x, dict):
        return x.values()
    if isinstance(x, (list, tuple, set, frozenset, deque)):
        return x
    if dataclasses.is_dataclass(x) and not isinstance(x, type):  # one with slots has no __dict__
        return [getattr(x, f.name, None) for f in dataclasses.fields(x)]
    return (attributes_of(x) or {}).values()
