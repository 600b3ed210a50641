"""The state of a run at one step, kept beside it: what a checkpoint would hold, in memory.

Parameters, buffers, what the optimizers keep, and the state of schedulers and of a GradScaler. The
memory is laid out once and filled again; from a GPU it is copied to pinned memory of the host in
the stream's own order, without waiting. Random number generators are left alone: put back, they
would draw again the very batches that a rollback is meant to leave behind.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from surefoot.guarding.form import (
    Form,
    anything,
    each,
    expect,
    flag,
    in_turn,
    keys,
    maybe,
    number,
    sized,
    some,
    table,
    tensor,
    text,
    whole,
)
from surefoot.kernels.pieces import piece

_NAMED = table(text, anything)
_PLAIN = (int, float, bool, str, type(None))


@dataclass(frozen=True, slots=True)
class Subjects:
    """What a snapshot is taken of; helpers: schedulers and scalers, by their state_dict."""

    optimizers: list[torch.optim.Optimizer]
    modules: list[nn.Module] = field(default_factory=list)
    helpers: list[Any] = field(default_factory=list)

    def parameters(self) -> list[torch.Tensor]:
        """Those of the modules and of the optimizers, each once."""
        found = {id(p): p for m in self.modules for p in m.parameters()}
        found |= {id(p): p for p in trained(self.optimizers)}
        return [piece(p) for p in found.values()]

    def buffers(self) -> list[torch.Tensor]:
        """Those of the modules, each once."""
        found = {id(b): b for m in self.modules for b in m.buffers()}
        return [piece(b) for b in found.values()]

    def role(self, helper: Any) -> str:
        """What tells a helper from the others in another process: its class, and its optimizer."""
        owner = getattr(helper, "optimizer", None)
        places = [i for i, optimizer in enumerate(self.optimizers) if optimizer is owner]
        return " ".join([type(helper).__name__, *map(str, places)])


def trained(optimizers: Iterable[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """The parameters of optimizers, in their order."""
    return [p for o in optimizers for g in o.param_groups for p in g["params"]]


class Snapshot:
    """step: the one after which it was taken, None as long as it holds nothing."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.rates: list[list[float]] = []  # of each optimizer's groups
        self._kept: Any = None

    def take(self, subjects: Subjects, step: int) -> None:
        """Copy everything; what an earlier one has laid out is used again."""
        before, self.step, self._kept = self._kept or {}, None, None
        state = {
            "tensors": subjects.parameters() + subjects.buffers(),
            "states": [_by_place(o) for o in subjects.optimizers],
            "groups": [_settings(o) for o in subjects.optimizers],
            "helpers": [[subjects.role(h), h.state_dict()] for h in subjects.helpers],
        }
        with torch.no_grad():
            self._kept = _copied(state, before)
        self.rates = [
            [float(g.get("lr", math.inf)) for g in o.param_groups] for o in subjects.optimizers
        ]
        self.step = step

    def restore(self, subjects: Subjects) -> None:
        """Put everything back; raises RuntimeError if it is no longer what it was taken of."""
        assert self._kept is not None
        tensors = subjects.parameters() + subjects.buffers()
        kept = self._kept
        alike = len(tensors) == len(kept["tensors"]) and all(
            a.shape == b.shape for a, b in zip(tensors, kept["tensors"], strict=True)
        )
        if not alike:
            raise RuntimeError("the model has other tensors than when its state was kept")
        with torch.no_grad():
            _put(tensors, kept["tensors"])
            for optimizer, state in zip(subjects.optimizers, kept["states"], strict=True):
                _put_state(optimizer, state)
            _put_helpers(subjects, kept["helpers"])
            # A rate that no scheduler sets anew is the script's to keep.
            if any(hasattr(h, "optimizer") for h in subjects.helpers):
                for optimizer, groups in zip(subjects.optimizers, kept["groups"], strict=True):
                    for group, settings in zip(optimizer.param_groups, groups, strict=True):
                        group.update(_put({k: group.get(k) for k in settings}, settings))

    def clear(self) -> None:
        """Let go of what it holds, but not of the memory."""
        self.step = None

    def state_dict(self) -> dict[str, Any]:
        """The copies themselves."""
        held = self._kept if self.step is not None else None
        return {"step": self.step, "rates": self.rates, "kept": held}

    @staticmethod
    def form(subjects: Subjects) -> Form:
        """That of the state of the same model and optimizers."""
        optimizers = subjects.optimizers
        kept = keys(
            tensors=in_turn([tensor(t) for t in subjects.parameters() + subjects.buffers()]),
            states=in_turn([_states_like(o) for o in optimizers]),
            groups=in_turn([in_turn(list(map(_like, _settings(o)))) for o in optimizers]),
            helpers=each(in_turn([text, _NAMED])),
        )
        rates = each(each(number), len(optimizers))

        def check(state: Any, where: str) -> None:
            keys(step=maybe(whole), rates=each(each(number)), kept=anything)(state, where)
            if state["step"] is not None:
                keys(rates=rates, kept=kept)(state, where)

        return check

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, in memory of its own."""
        self.rates = [list(map(float, rates)) for rates in state["rates"]]
        self.step, held = state["step"], state["kept"]
        self._kept = None if self.step is None else _copied(held, None)


def _by_place(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """What it keeps of each parameter, by the parameter's place."""
    state = optimizer.state
    return {i: state[p] for i, p in enumerate(trained([optimizer])) if p in state}


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def _states_like(optimizer: torch.optim.Optimizer) -> Form:
    """That of what it keeps of each parameter, by its place."""
    live, count = _by_place(optimizer), len(trained([optimizer]))

    def check(states: Any, where: str) -> None:
        table(whole, anything)(states, where)
        for place, state in states.items():
            expect(0 <= place < count, f"the place of one of {count} parameters", place, where)
            _like(live.get(place))(state, f"{where}[{place}]")

    return check


def _like(live: Any) -> Form:
    """That of a tree in which what is there now too is of the same kind and size."""
    if isinstance(live, dict):
        return some({name: _like(value) for name, value in live.items()})
    if isinstance(live, torch.Tensor):
        return maybe(sized(piece(live).shape))
    if isinstance(live, (list, tuple)):
        return each(_like(live[0]) if len(live) else anything)
    kinds: dict[type, Form] = {bool: flag, int: _scalar, float: _scalar, str: text}
    return kinds.get(type(live), anything)


def _scalar(value: Any, where: str) -> None:
    """A learning rate may be either."""
    (sized(torch.Size()) if isinstance(value, torch.Tensor) else number)(value, where)


def _put_helpers(subjects: Subjects, kept: list[Any]) -> None:
    """Give each what was kept of its role, in their order; where there is nothing, nothing.

    Those that hold others come last: they put back what is in them as well.
    """
    waiting, pairs = list(kept), []
    for helper in subjects.helpers:
        role = subjects.role(helper)
        found = next((one for one in waiting if one[0] == role), None)
        if found is not None:
            waiting.remove(found)
            pairs.append((helper, found[1]))
    for helper, state in sorted(pairs, key=lambda pair: hasattr(pair[0], "_schedulers")):
        helper.load_state_dict(copy.deepcopy(state))


def _put_state(optimizer: torch.optim.Optimizer, kept: dict[int, Any]) -> None:
    for i, parameter in enumerate(trained([optimizer])):
        if i in kept:
            optimizer.state[parameter] = _put(optimizer.state.get(parameter), kept[i], parameter)
        else:
            optimizer.state.pop(parameter, None)


def _copied(value: Any, before: Any) -> Any:
    """A copy of a tree of containers, in the memory of an earlier one where that fits."""
    if isinstance(value, torch.Tensor):
        return _copied_tensor(piece(value), before)
    if isinstance(value, _PLAIN):
        return value
    if type(value) is dict:
        old = before if isinstance(before, dict) else {}
        return {k: _copied(v, old.get(k)) for k, v in value.items()}
    if type(value) in (list, tuple):
        old = before if isinstance(before, (list, tuple)) and len(before) == len(value) else None
        pairs = zip(value, old or [None] * len(value), strict=True)
        return type(value)(_copied(v, b) for v, b in pairs)
    return copy.deepcopy(value)


def _copied_tensor(tensor: torch.Tensor, before: Any) -> torch.Tensor:
    there = isinstance(before, torch.Tensor) and before.shape == tensor.shape
    if not there or before.dtype != tensor.dtype:
        pinned = tensor.device.type == "cuda"
        before = torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)
    return before.copy_(tensor.detach(), non_blocking=True)


def _put(live: Any, kept: Any, of: torch.Tensor | None = None) -> Any:
    """What was kept, in the live tree's own objects where they are still there; of: the parameter
    that it is the state of."""
    if isinstance(kept, torch.Tensor):
        if isinstance(live, torch.Tensor) and piece(live).shape == kept.shape:
            piece(live).copy_(kept, non_blocking=True)
            return live
        return kept.clone() if of is None else _anew(kept, of)
    if isinstance(kept, dict):
        if not isinstance(live, dict):
            live = {}
        for key in [k for k in live if k not in kept]:
            del live[key]
        for key, value in kept.items():
            live[key] = _put(live.get(key), value, of)
        return live
    if isinstance(kept, (list, tuple)):
        old = list(live) if isinstance(live, (list, tuple)) else []
        old += [None] * len(kept)
        made = [_put(a, b, of) for a, b in zip(old, kept, strict=False)]
        if isinstance(live, list):
            live[:] = made
            return live
        return tuple(made) if isinstance(kept, tuple) else made
    return kept if isinstance(kept, _PLAIN) else copy.deepcopy(kept)


def _anew(kept: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """What the optimizer has let go of, on the device and in the pieces in which it had it."""
    if not kept.dim() and not kept.is_pinned():  # a count of steps, as a rule on the host
        return kept.clone()
    if kept.shape != piece(parameter).shape:
        return kept.to(parameter.device, copy=True)
    made = torch.empty_like(parameter, dtype=kept.dtype, requires_grad=False)
    piece(made).copy_(kept)
    return made
