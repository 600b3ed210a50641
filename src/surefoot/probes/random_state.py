"""The sources of random numbers: their states, read and put back.

A source is a generator of torch's, Python's or numpy's, or one of the modules `random` and
`numpy.random`, which stand for their hidden global generators.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.probes.restoring import thoroughly

_SOURCES = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def is_source(x: Any) -> bool:
    """Whether an object is a generator whose state can be read."""
    return isinstance(x, _SOURCES)


def state_of(source: Any) -> Any:
    """The state of a source, for `set_state`."""
    if isinstance(source, np.random.Generator):
        return source.bit_generator.state
    return source.getstate() if hasattr(source, "getstate") else source.get_state()


def set_state(source: Any, state: Any) -> None:
    """Put a source back to where it was."""
    if isinstance(source, np.random.Generator):
        source.bit_generator.state = state
    elif hasattr(source, "setstate"):
        source.setstate(state)
    else:
        source.set_state(state)


def accelerators(tensors: Iterable[torch.Tensor]) -> list[torch.device]:
    """The devices of these tensors that have random numbers of their own."""
    devices = {t.device for t in tensors}
    return sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)


def device_state(device: torch.device) -> torch.Tensor:
    """The state of a device's own generator; CUDA keeps it on the host, so nothing waits."""
    module: Any = torch.get_device_module(device)
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def set_device_state(device: torch.device, state: torch.Tensor) -> None:
    """Put a device's own generator back to where it was."""
    module: Any = torch.get_device_module(device)
    if device.type == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, device)


@contextlib.contextmanager
def undisturbed(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Afterwards all global sources are where they were: torch's, Python's, numpy's, and those of
    these devices and of every CUDA device in use."""
    here = [(source, state_of(source)) for source in (torch.default_generator, random, np.random)]
    there = [(d, device_state(d)) for d in devices if d.type != "cuda"]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        acts: list[Callable[[], object]] = [partial(set_state, *pair) for pair in here]
        acts += [partial(set_device_state, *pair) for pair in there]
        acts += [partial(torch.cuda.set_rng_state_all, cuda)] if cuda else []
        thoroughly(acts)
