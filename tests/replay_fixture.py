"""One step under an entry tap, run again: the oracle is the step's own `.grad`, bit for bit.

Everything that a replay must leave alone is photographed before and after it: parameters, buffers,
`.grad`, versions, all sources of random numbers, and whatever the modules keep in their attributes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.layers import build_table
from surefoot.probes.replay import Replay, replay
from surefoot.probes.tap import EntryTap

Work = Callable[[int], None]


def photograph(x: Any, seen: set[int] | None = None) -> Any:
    """An object down to its bits, with the identities of everything in it."""
    seen = set() if seen is None else seen
    if isinstance(x, torch.Tensor):
        dense = x.detach().coalesce() if x.is_sparse else x.detach()
        parts = (dense.indices(), dense.values()) if x.is_sparse else (dense,)
        if isinstance(x, nn.parameter.UninitializedParameter):
            return id(x)
        bits = [p.resolve_conj().contiguous().view(-1).view(torch.uint8).tolist() for p in parts]
        return id(x), x.dtype, tuple(x.shape), x._version, x.requires_grad, bits
    if isinstance(x, np.ndarray):
        return id(x), x.tobytes()
    if isinstance(x, (str, bytes, int, float, complex, type(None))):
        return x
    if id(x) in seen:
        return id(x)
    seen.add(id(x))
    if isinstance(x, dict):
        return id(x), [(k, photograph(v, seen)) for k, v in x.items()]
    if isinstance(x, (list, tuple, set, deque)):
        return id(x), [photograph(v, seen) for v in x]
    if isinstance(x, torch.Generator):
        return id(x), x.get_state().tolist()
    if isinstance(x, random.Random):
        return id(x), x.getstate()
    if isinstance(x, np.random.Generator):
        return id(x), str(x.bit_generator.state)
    if isinstance(x, np.random.RandomState):
        return id(x), str(x.get_state())
    if isinstance(x, (nn.Module, SimpleNamespace)) or type(x).__module__.startswith("test_"):
        return id(x), photograph(vars(x), seen)
    return id(x)


def scene(models: Sequence[nn.Module], *more: Any) -> dict[str, Any]:
    """All that a replay must not change."""
    tensors = [t for m in models for t in (*m.parameters(), *m.buffers())]
    return {
        "models": [photograph(m) for m in models],
        "grads": [photograph(t.grad) for t in tensors if t.is_leaf],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": [str(x) for x in np.random.get_state()],
        "more": [photograph(x) for x in more],
        "grad mode": torch.is_grad_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
    }


def replayed(
    models: nn.Module | Sequence[nn.Module],
    work: Work,
    *,
    steps: int = 3,
    search: bool = True,
    then: Callable[[], None] = lambda: None,
    watched: Sequence[Any] = (),
) -> Replay | str:
    """Some steps by gradient descent, the last of them run again; nothing else may have changed.

    work: forward and backward of a step; then: done after the last one, before it is run again.
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    table, modules, _ = build_table(models)
    tap = EntryTap(models)
    for step in range(steps):
        for p in (p for m in models for p in m.parameters()):
            if step and p.grad is not None:
                with torch.no_grad():
                    p.sub_(p.grad, alpha=0.01)
            p.grad = None
        tap.clear()
        work(step)
    then()
    own = {id(p): p.grad for m in models for p in m.parameters() if p.grad is not None}
    before = scene(models, *watched)
    tap.paused = True
    result = replay(0, tap.entries, table, modules, own, search)
    tap.paused = False
    after = scene(models, *watched)
    for name in before:
        assert before[name] == after[name], f"the replay changed: {name}"
    assert tap.failure is None
    tap.remove()
    return result


def assert_exact(result: Replay | str, *models: nn.Module) -> None:
    """The gradients that were found are the step's own, as torch itself compares them."""
    assert isinstance(result, Replay), result
    compared = 0
    for p in (p for m in models for p in m.parameters()):
        if p.grad is not None:
            found, own = result.gradients[id(p)], p.grad
            if own.is_sparse:
                found, own = found.to_dense(), own.to_dense()
            assert torch.equal(found, own), (found - own).abs().max()
            compared += 1
    assert compared
    assert result.exact
    assert result.factor == 1.0


# -- models ----------------------------------------------------------------------------------------

Made = tuple[nn.Module | list[nn.Module], Work]


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (16, 6)))


def network(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Tanh(), nn.Linear(8, 3))


def usual(model: nn.Module, shape: tuple[int, ...] = (16, 6)) -> Made:
    return model, lambda step: model(x(*shape)).square().mean().backward()


class Body(nn.Module):
    """Two layers; what subclasses do on the way goes into the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.on_the_way(torch.tanh(self.a(x))))


def inexact(model: nn.Module, work: Work, **options: Any) -> None:
    result = replayed(model, work, **options)
    assert isinstance(result, Replay), result
    assert result.exact is False
