"""One call that the script made of a module: all that is needed to make it again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from surefoot.probes.attributes import Holdings, Refused
from surefoot.probes.autocast import Casting
from surefoot.probes.pytrees import objects_of, tensors_in_call, tensors_of
from surefoot.probes.side_effects import Past
from surefoot.signals.criterion import Leaf

_PASSES = 64  # backward passes through one call, beyond which their gradients are not kept
_task = torch._C._current_graph_task_id
_compiling = torch.compiler.is_compiling


@dataclass(slots=True, eq=False)
class Entry:
    """versions: of the tensors that went in; rng: state of torch's generator on the host, None
    if nothing is drawn from it; past: what else the call found that it changes.

    received: (which backward, which output, the gradient that arrived at it), in order; outputs:
    values, if they are kept; obstacle: why it cannot be made again, if that is known; passes: how
    many backward passes went through it.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[int]
    rng: torch.Tensor | None
    casting: Casting
    training: bool
    past: Past | None = None
    received: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    obstacle: str = ""
    passes: int = 0

    @property
    def output_gradients(self) -> dict[int, torch.Tensor]:
        """What arrived at each output, summed over the backward calls."""
        found: dict[int, torch.Tensor] = {}
        for _, i, gradient in self.received:
            found[i] = found[i] + gradient if i in found else gradient
        return found

    def refusal(self) -> str:
        """Why the call cannot be made again as it was; empty if it can."""
        if self.obstacle:
            return self.obstacle
        if self.module is None:
            return "the step is over, and its inputs were let go"
        if versions_of(self.args, self.kwargs) != self.versions:
            return "an input of the step was changed in place after it was used"
        if self.module.training != self.training:
            return "the model changed between training and evaluation mode"
        return ""

    def forget(self) -> None:
        """Let go of everything: an output that the script keeps still refers to the entry."""
        self.module = self.past = None  # type: ignore[assignment]
        self.args, self.kwargs = (), {}
        self.received.clear()
        self.outputs.clear()


class Output(Leaf):  # pyrefly: ignore[bad-class-definition]
    """An output of an entry: the hook that waits for its gradient."""

    __slots__ = ()
    __torch_unserializable__ = True  # or torch speaks up when the output is pickled

    def __call__(self, gradient: torch.Tensor | None) -> None:
        """Keep the gradient; autograd functions of a user's may give none."""
        if _compiling():  # Compiled Autograd traces the backward with all of its hooks
            return
        entry = self.entry
        if gradient is None or entry.module is None:
            return
        task, received = _task(), entry.received
        if not received or received[-1][0] != task:
            entry.passes += 1
        if entry.passes > _PASSES:
            entry.obstacle = entry.obstacle or "more backward passes went through it than are kept"
            del received[1:]
            return
        if gradient.requires_grad:
            entry.obstacle = "a gradient was itself differentiated (create_graph)"
            gradient = gradient.detach()
        received.append((task, self.index, gradient))


def versions_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """How often each tensor was changed in place so far; -1 where torch does not count."""
    return [version_of(t) for t in tensors_in_call(args, kwargs)]


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was changed in place; -1 where torch does not count."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return -1


def call_again(
    entry: Entry, around: contextlib.AbstractContextManager[Any], wide: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(outputs, inputs) of the entry's forward made again, with its own random numbers.

    wide: in float64, its inputs too, and without autocast. Call it inside `set_aside`.
    """
    fresh: dict[int, torch.Tensor] = {}
    for t in tensors_in_call(entry.args, entry.kwargs):
        value = t.detach().double() if wide and t.is_floating_point() else t.detach()
        fresh[id(t)] = value.requires_grad_(t.requires_grad)
    with _arguments(entry, fresh) as (args, kwargs):
        if entry.rng is not None:
            torch.set_rng_state(entry.rng)
        if entry.past is not None:
            entry.past.put_back()
        casting = entry.casting.none() if wide else entry.casting
        with torch.enable_grad(), casting.again(), around:
            return tensors_of(entry.module(*args, **kwargs)), list(fresh.values())


@contextlib.contextmanager
def _arguments(
    entry: Entry, fresh: dict[int, torch.Tensor]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The entry's arguments with these tensors in place of its own; objects are put right after."""
    tree = (entry.args, entry.kwargs)
    objects = objects_of(tree)
    if any(isinstance(x, Iterator) for x in objects):
        raise Refused("an argument of the model is an iterator, which would move on")

    def instead(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return fresh[id(x)]
        return x.copy() if type(x) is np.ndarray else x

    holdings = Holdings(objects)
    try:
        holdings.swap(lambda t: fresh.get(id(t), t))
        yield tree_map(instead, tree)
    finally:
        holdings.put_back()
