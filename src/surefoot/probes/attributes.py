"""What objects keep in their attributes: lists, dictionaries, arrays, tensors, generators.

A forward that is made again may change any of it. While that lasts, tensors and arrays are
replaced by stand-ins, and afterwards every container holds again what it held, the very same
objects in the same order. What a forward changes elsewhere (a global, a file) is out of reach.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.probes.pytrees import attributes_of
from surefoot.probes.random_state import is_source, set_state, state_of
from surefoot.probes.restoring import thoroughly

_DEPTH = 4  # containers and objects within each other
_MOST, _EACH = 100_000, 50  # things looked at, and those that any module has
_SKIPPED = (str, bytes, int, float, complex, type(None))
# Of any module: what registers hooks keeps these in order by itself.
_TABLES = frozenset(name for name in vars(nn.Module()) if "hooks" in name)


class Refused(Exception):
    """Why something could not be tried; the message goes into the record."""


class Holdings:
    """Of some objects, and of what they hold, four levels deep.

    modules: those met on the way, whose attributes are not looked at. Raises Refused where there is
    too much to keep.
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        self._containers: list[tuple[Any, list[Any]]] = []
        self._sources: list[tuple[Any, Any]] = []
        self._arrays: dict[int, np.ndarray] = {}
        self.modules: list[nn.Module] = []
        seen: set[int] = set()
        stack = [(x, 0) for x in roots]
        most = _MOST + _EACH * len(roots)
        while stack:
            x, depth = stack.pop()
            if isinstance(x, _SKIPPED) or id(x) in seen:
                continue
            seen.add(id(x))
            if len(seen) > most:
                raise Refused("the model keeps too many objects to be set aside")
            stack += [(child, depth + 1) for child in self._visit(x, depth)]

    def _visit(self, x: Any, depth: int) -> Iterable[Any]:
        """Note one thing; returns what is to be looked at next."""
        if is_source(x):
            self._sources.append((x, state_of(x)))
        elif isinstance(x, nn.Module):
            self.modules.append(x)
        elif isinstance(x, tuple):
            return x if depth <= _DEPTH else ()
        elif depth <= _DEPTH and not isinstance(x, (torch.Tensor, np.ndarray)):
            container = x if isinstance(x, (dict, list, set, deque)) else attributes_of(x)
            if container is not None:
                if not isinstance(container, dict):
                    self._containers.append((container, list(container)))
                    return self._containers[-1][1]
                held = list(container.items())
                self._containers.append((container, held))
                return [v for k, v in held if k not in _TABLES]
        return ()

    def swap(self, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Put stand-ins in place: of tensors what `stand_in` gives, of arrays copies."""
        arrays: dict[int, np.ndarray] = {}

        def instead(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return stand_in(value)
            if type(value) is np.ndarray:
                return arrays.setdefault(id(value), value.copy())
            if type(value) is tuple and any(isinstance(v, torch.Tensor) for v in value):
                return tuple(map(instead, value))
            return value

        for container, held in self._containers:
            if isinstance(container, set):  # of tensors nobody makes one
                continue
            pairs = held if isinstance(container, dict) else enumerate(held)
            for key, value in pairs:
                if (other := instead(value)) is not value:
                    container[key] = other

    def put_back(self) -> None:
        """Have every container hold again what it held; those that do are left alone."""
        containers = (partial(_restore, *pair) for pair in self._containers)
        sources = (partial(set_state, *pair) for pair in self._sources)
        thoroughly((*containers, *sources))


def _restore(container: Any, held: list[Any]) -> None:
    if not _same(container, held):
        _refill(container, held)


def _same(container: Any, held: list[Any]) -> bool:
    if not isinstance(container, dict):
        return len(container) == len(held) and all(map(operator.is_, container, held))
    values = container.values()
    return _same_keys(container, held) and all(
        v is w for v, (_, w) in zip(values, held, strict=True)
    )


def _same_keys(container: dict[Any, Any], held: list[Any]) -> bool:
    return len(container) == len(held) and all(
        k is m for k, (m, _) in zip(container, held, strict=True)
    )


def _refill(container: Any, held: list[Any]) -> None:
    if isinstance(container, dict) and _same_keys(container, held):
        for key, value in held:  # at no moment without one of them: other threads may look
            if container[key] is not value:
                container[key] = value
        return
    container.clear()
    if isinstance(container, (dict, set)):
        container.update(held)
    else:
        container.extend(held)
