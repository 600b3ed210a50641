"""What a module's forward changes besides its output, and what a call of it found there.

Most forwards draw at most from torch's generator. Some advance a buffer that they also use (the
power iteration of spectral norm), count their calls, carry a hidden state, or draw from Python's or
numpy's generator. A call can be made again exactly only from what it found. Which of these a
module does is seen at its first two calls, and what it draws from at later ones too, more and more
rarely; that alone is kept from then on, and of a module that does nothing of the kind, nothing.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from surefoot.probes.random_state import (
    accelerators,
    device_state,
    is_source,
    set_device_state,
    set_state,
    state_of,
)

_CALLS = 2  # at which a module is looked at
_LARGEST = 1 << 20  # bytes of buffers and attributes that are kept of a call
_GLOBAL = (random, np.random)  # sources of random numbers besides torch's
_VALUES = (int, float, bool, str, type(None))

Place = tuple[weakref.ref[nn.Module], str]


@dataclass(slots=True)
class Past:
    """What a call found. attributes, buffers: (module, name) and value; sources: of random numbers
    other than torch's own on the host, with the state of each; given: those among its arguments;
    devices: accelerators, with the state of each."""

    attributes: list[tuple[Place, Any]] = field(default_factory=list)
    buffers: list[tuple[Place, torch.Tensor]] = field(default_factory=list)
    sources: list[tuple[Any, Any]] = field(default_factory=list)
    given: list[tuple[Any, Any]] = field(default_factory=list)
    devices: list[tuple[torch.device, torch.Tensor]] = field(default_factory=list)

    def drawn(self) -> Past:
        """Only what concerns random numbers, for a call at other weights."""
        return Past(sources=self.sources, devices=self.devices)

    def put_back(self) -> None:
        """Have it so again. Attributes and buffers as well, so call it inside `set_aside`."""
        for (ref, name), value in self.attributes:
            if (module := ref()) is not None:
                module.__dict__[name] = _copied(value)
        for (ref, name), value in self.buffers:
            module = ref()
            current = module._buffers.get(name) if module is not None else None
            if current is not None and current.shape == value.shape:
                current.copy_(value)  # in place: other modules may share it
        for source, state in (*self.sources, *self.given):
            set_state(source, state)
        for device, state in self.devices:
            set_device_state(device, state)


class Habits:
    """Of one module that the script calls.

    looking: whether the next call is looked at; plain: whether there is nothing else to keep of it;
    draws: whether it draws from torch's generator on the host; modes: of training or evaluation,
    those in which it has been looked at.
    """

    def __init__(self) -> None:
        self.looking, self.plain, self.draws = True, False, True
        self.modes: tuple[bool, ...] = ()
        self.devices: list[torch.device] = []
        self._left = _CALLS
        self._attributes: list[Place] = []
        self._buffers: list[Place] = []
        self._sources: list[Any] = []
        self._drew = False

    def look_again(self) -> None:
        """At the next call: a layer may be dropped only later on."""
        self.looking = self.draws = True
        self.plain = False

    def before(self, module: nn.Module) -> Past | None:
        """What the call that is about to be made finds; None if there is nothing to keep of it."""
        if module.training not in self.modes:
            self.modes, self._left = (*self.modes, module.training), _CALLS
            self.look_again()
        if self.looking and self._left:
            return self._everything(module)
        if self.plain:
            return None
        past = Past()
        for ref, name in self._attributes:
            owner = ref()
            if owner is not None and name in owner.__dict__:
                past.attributes.append(((ref, name), _copied(owner.__dict__[name])))
        for ref, name in self._buffers:
            owner = ref()
            if owner is not None and (b := owner._buffers.get(name)) is not None:
                past.buffers.append(((ref, name), b.detach().clone()))
        self._add_states(past, _GLOBAL if self.looking else self._sources)
        return past

    def after(self, module: nn.Module, past: Past | None, rng: torch.Tensor | None) -> None:
        """Of a call that was looked at: leave in `past` only what it has changed, and remember it.

        rng: the state of torch's generator that it found.
        """
        if past is None or rng is None:
            return
        if self._left:
            self._left -= 1
            past.attributes = _within(x for x in past.attributes if _reset(*x))
            past.buffers = _within(x for x in past.buffers if _advanced(*x))
            _add(self._attributes, [place for place, _ in past.attributes])
            _add(self._buffers, [place for place, _ in past.buffers])
        past.sources = [(s, state) for s, state in past.sources if not _equal(state, state_of(s))]
        _add(self._sources, [s for s, _ in past.sources])
        self._drew = self._drew or not torch.equal(rng, torch.get_rng_state())
        self.looking = self._left > 0
        kept = self._attributes or self._buffers or self._sources or self.devices
        self.plain = not (self.looking or kept)
        self.draws = self.looking or self._drew

    def _everything(self, module: nn.Module) -> Past:
        past, parts = Past(), list(module.modules())
        for part in parts:
            ref = weakref.ref(part)
            past.attributes += [((ref, k), _copied(v)) for k, v in vars(part).items() if _worth(v)]
            # The running averages of a normalisation do not enter what it makes in training.
            if not (isinstance(part, _NormBase) and part.training):
                buffers = [(k, b) for k, b in part._buffers.items() if b is not None]
                small = [(k, b) for k, b in buffers if _bytes(b) <= _LARGEST]
                past.buffers += [((ref, k), b.detach().clone()) for k, b in small]
        tensors = [t for part in parts for t in (*part.parameters(False), *part.buffers(False))]
        self.devices = accelerators(tensors)
        self._add_states(past, _GLOBAL)
        return past

    def _add_states(self, past: Past, sources: Iterable[Any]) -> None:
        past.sources = [(s, state_of(s)) for s in sources]
        past.devices = [(d, device_state(d)) for d in self.devices]


def _add(known: list[Any], found: Iterable[Any]) -> None:
    known += [x for x in found if x not in known]


def sources_in(leaves: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The generators among a call's arguments, each with its state."""
    return [(x, state_of(x)) for x in leaves if is_source(x)]


def _worth(value: Any) -> bool:
    """Whether an attribute is one that a forward may read, and change for the next one."""
    if isinstance(value, torch.Tensor):
        return _bytes(value) <= _LARGEST and not value.requires_grad
    return isinstance(value, _VALUES)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _reset(place: Place, value: Any) -> bool:
    ref, name = place
    owner = ref()
    now = owner.__dict__.get(name, value) if owner is not None else value
    return now is not value and (type(now) is not type(value) or not _equal(now, value))


def _advanced(place: Place, value: torch.Tensor) -> bool:
    ref, name = place
    owner = ref()
    now = owner._buffers.get(name) if owner is not None else None
    return now is not None and not _equal(now, value)


def _within(found: Iterable[tuple[Place, Any]]) -> list[tuple[Place, Any]]:
    """As many of them as may be kept."""
    kept, size = [], 0
    for place, value in found:
        size += _bytes(value)
        if size <= _LARGEST:
            kept.append((place, value))
    return kept


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)
