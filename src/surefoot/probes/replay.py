"""Replay: one step's forward and backward again, fully instrumented, outside of the run.

While a run goes on, an entry tap keeps what the replay needs: references to the inputs of the
modules that the script calls, the RNG state, and the gradient that arrived at their outputs. On an
alarm, before the optimizer acts, the step is run again on the still unchanged parameters. RNG,
buffers, module attributes, `.grad` and the user's parameter hooks are left alone.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from surefoot.kernels.layout import flatten
from surefoot.layers import LayerTable
from surefoot.probes.flow import FlowProbe
from surefoot.probes.loss_origin import in_the_loss
from surefoot.probes.origin import Origin, OriginMode
from surefoot.probes.safely import Hook, raise_failure, safely
from surefoot.probes.statistics import float_tensors
from surefoot.signals.criterion import Criterion, Leaf, mark
from surefoot.signals.flow import Flow

_HOOK_TABLES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_CONTAINERS = (dict, OrderedDict, list, set, deque)
_MAX_ENTRIES = 8  # calls of entry modules kept in one step (micro-batches)


@dataclass(slots=True)
class Entry:
    """One call of an entry module: all that is needed to make it again."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[int]
    rng: torch.Tensor
    autocast: tuple[bool, torch.dtype]
    training: bool
    output_gradients: dict[int, torch.Tensor] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)  # values, if they are kept

    def refusal(self) -> str:
        """Why the call cannot be made again as it was; empty if it can."""
        if [t._version for t in tensors_of((self.args, self.kwargs))] != self.versions:
            return "an input of the step was changed in place after it was used"
        if self.module.training != self.training:
            return "the model changed between training and evaluation mode"
        return ""


class EntryTap:
    """Keeps the current step's entries; `clear` after each optimizer step. About 5 us a call.

    marking: whether outputs are marked for `signals.criterion`; keeping: whether they are kept too.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.marking = self.keeping = False
        self.entries: list[Entry] = []
        self.inputs: list[torch.Tensor] = []
        self.overflowed = False
        self.paused = False
        self.failure: Exception | None = None
        self._handles: list[Any] = []
        self._pending: list[Entry] = []
        self._marks = 0, 0
        for module in modules:
            self._handles += [
                module.register_forward_pre_hook(Hook(self._before), with_kwargs=True),
                module.register_forward_hook(Hook(self._after)),
            ]

    def remove(self) -> None:
        """Take the hooks away and forget everything."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def mark(self) -> None:
        """Note that what was kept so far belongs to a step that has been taken."""
        self._marks = len(self.entries), len(self.inputs)

    def clear(self, marked: bool = False) -> None:
        """Forget the step's entries, so that its tensors can be freed; or only the marked ones."""
        entries, inputs = self._marks if marked else (None, None)
        del self.entries[:entries], self.inputs[:inputs]
        self._marks = 0, 0
        self._pending.clear()
        self.overflowed = False

    @safely
    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.paused or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        if self._pending or len(self.entries) >= _MAX_ENTRIES:
            self.overflowed = self.overflowed or not self._pending
            return
        leaves = tensors_of((args, kwargs))
        self.inputs += [_plain(t) for t in leaves if t.is_floating_point() and _has_data(t)]
        entry = Entry(
            module,
            args,
            kwargs,
            [t._version for t in leaves],
            torch.default_generator.get_state(),
            (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
            module.training,
        )
        self._pending.append(entry)

    @safely
    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._pending or self._pending[-1].module is not module:
            return
        entry = self._pending.pop()
        self.entries.append(entry)
        for i, tensor in enumerate(tensors_of(output)):
            if tensor.requires_grad:
                tensor.register_hook(partial(_keep_gradient, entry, i))
                if self.marking:
                    mark(tensor, id(self), Leaf(entry, i))
                if self.keeping:
                    entry.outputs[i] = tensor.detach()


def _has_data(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_nested)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its memory can be read as it lies, else a copy that can."""
    if tensor.layout is torch.strided and tensor.is_contiguous():
        return tensor
    return flatten(tensor)[0]  # pyrefly: ignore[bad-return]


def _keep_gradient(entry: Entry, index: int, gradient: torch.Tensor) -> None:
    entry.output_gradients[index] = gradient


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors among the leaves of a structure of arguments or outputs."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if type(tree) is tuple and len(tree) == 2 and tree[1] == {} and _only_tensors(tree[0]):
        return list(tree[0])  # (args, kwargs) of the usual call: no need for the general walk
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _only_tensors(args: Any) -> bool:
    return type(args) is tuple and all(isinstance(x, torch.Tensor) for x in args)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay gave: the flow, and whether its gradients equal the step's bit for bit."""

    flow: Flow
    exact: bool


def replay(
    step: int,
    entries: list[Entry],
    table: LayerTable,
    modules: list[nn.Module],
    gradients: dict[int, torch.Tensor],
    search: bool = True,
    criteria: Sequence[Criterion] = (),
) -> Replay | str:
    """Run the entries again under a flow probe; a string says why it was refused.

    `gradients` maps id(parameter) to the step's own gradient, to compare with. `search` looks for
    the operation that made the first non-finite value, in the step's losses (`criteria`) as well.
    Costs about two forward and backward passes, with the search about twenty.
    """
    used = [e for e in entries if e.output_gradients]
    if not used:
        return "no module call of this step received a gradient"
    refusal = next(filter(None, (e.refusal() for e in used)), "")
    if refusal:
        return refusal
    probe = FlowProbe(table, modules)
    with set_aside(modules) as aliases:
        open_layer = partial(_open_layer, probe)
        mode = OriginMode(open_layer) if search else None
        probe.install()
        found: dict[int, torch.Tensor] = {}
        values: dict[tuple[int, int], torch.Tensor] = {}
        origin: Origin | None = None
        try:
            for entry in used:
                made = _run(entry, mode, aliases, found, values)
                origin = origin or _nonfinite_input(entry) or made
        finally:
            flow = probe.collect(step, replayed=True)
        if origin is not None and origin.where == "loss" and criteria:
            origin = in_the_loss(criteria, values, aliases) or origin
    raise_failure(probe)
    flow.origin = origin.to_json() if origin is not None else None
    # Another optimizer may hold the rest of the model's parameters: only those in both compare.
    shared = found.keys() & gradients.keys()
    exact = bool(shared) and all(
        torch.allclose(found[k], gradients[k], rtol=0, atol=0, equal_nan=True) for k in shared
    )
    return Replay(flow, exact)


def _open_layer(probe: FlowProbe) -> int | None:
    return next((layer for layer, call in reversed(probe._open) if call), None)


def _outermost(
    pairs: list[tuple[torch.Tensor, torch.Tensor]],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Leave out what other outputs are made from, as the logits of a model that gives its loss.

    The gradient that was seen there came through those others, and would count twice.
    """
    seen: set[Any] = set()
    stack = [n for y, _ in pairs if y.grad_fn is not None for n, _ in y.grad_fn.next_functions]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [n for n, _ in node.next_functions]
    return [(y, g) for y, g in pairs if y.grad_fn not in seen]


def _nonfinite_input(entry: Entry) -> Origin | None:
    for tensor in float_tensors((entry.args, entry.kwargs)):
        if not bool(torch.isfinite(tensor).all()):
            return Origin("input", "input", None, dtype=str(tensor.dtype).removeprefix("torch."))
    return None


def _run(
    entry: Entry,
    mode: OriginMode | None,
    aliases: dict[int, torch.Tensor],
    found: dict[int, torch.Tensor],
    values: dict[tuple[int, int], torch.Tensor],
) -> Origin | None:
    """One entry forward and backward; adds its parameter gradients to `found` by parameter id.

    And its outputs to `values`, by the entry's id and their number.
    """
    outputs, inputs = call_again(entry, mode or contextlib.nullcontext())
    origin = mode.forward_origin() if mode else None
    values.update({(id(entry), i): y.detach() for i, y in enumerate(outputs)})
    pairs = [(outputs[i], g) for i, g in entry.output_gradients.items() if i < len(outputs)]
    if origin is None and any(not bool(torch.isfinite(g).all()) for _, g in pairs):
        origin = Origin("loss", "loss", None)
    pairs = _outermost(pairs)
    if mode:
        mode.follow_backward([y for y, _ in pairs])
    leaves = [*aliases.values(), *(t for t in inputs if t.requires_grad)]
    made = torch.autograd.grad(
        [y for y, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True
    )
    for key, g in zip(aliases, made, strict=False):
        if g is not None:
            found[key] = found[key] + g if key in found else g
    return origin or (mode.backward_origin() if mode else None)


def call_again(
    entry: Entry, around: contextlib.AbstractContextManager[Any], wide: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(outputs, inputs) of the entry's forward made again, with its own random numbers.

    wide: in float64, its inputs too, and without autocast. Call it inside `set_aside`.
    """
    torch.set_rng_state(entry.rng)
    fresh = {}
    for t in tensors_of((entry.args, entry.kwargs)):
        value = t.detach().double() if wide and t.is_floating_point() else t.detach()
        fresh[id(t)] = value.requires_grad_(t.requires_grad)
    args, kwargs = tree_map(
        lambda x: fresh[id(x)] if isinstance(x, torch.Tensor) else x, (entry.args, entry.kwargs)
    )
    enabled, dtype = entry.autocast
    cast = torch.autocast("cpu", dtype=dtype, enabled=enabled and not wide)
    with torch.enable_grad(), cast, around:
        return tensors_of(entry.module(*args, **kwargs)), list(fresh.values())


@contextlib.contextmanager
def set_aside(modules: list[nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """Swap parameters for aliases and buffers for copies; restore those and all state after.

    Yields id(parameter) -> alias. An alias shares the parameter's memory, unless the module's
    forward writes on it, but none of its hooks.
    """
    saved = [(m, dict(m.__dict__), _contents(m)) for m in modules]
    aliases: dict[int, torch.Tensor] = {}
    copies: dict[int, torch.Tensor] = {}
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        for module in modules:
            _swap_tensors(module, aliases, copies)
            _mute_hooks(module)
        with contextlib.redirect_stdout(io.StringIO()):
            yield aliases
    finally:
        for module, attributes, contents in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for container, before in contents:
                _refill(container, before)
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _swap_tensors(
    module: nn.Module, aliases: dict[int, torch.Tensor], copies: dict[int, torch.Tensor]
) -> None:
    # An embedding with max_norm writes on its weight in forward.
    writes = getattr(module, "max_norm", None) is not None
    for name, p in module._parameters.items():
        if p is None or not (p.requires_grad or writes):
            continue
        # Not p.detach(), which shares p's version: a write would spoil a graph the script has kept.
        alias = nn.Parameter(p.data.clone() if writes else p.data, p.requires_grad)
        if p.requires_grad:
            alias = aliases.setdefault(id(p), alias)
        module._parameters[name] = alias  # pyrefly: ignore
    for name, b in module._buffers.items():
        if b is not None:
            module._buffers[name] = copies.setdefault(id(b), b.detach().clone())
    if isinstance(module, nn.RNNBase):
        names = module.__dict__["_flat_weights_names"]
        module.__dict__["_flat_weights"] = [getattr(module, n) for n in names]


def _mute_hooks(module: nn.Module) -> None:
    """Leave only the hooks that torch itself needs: a user's hook counts how often it is called."""
    for name in _HOOK_TABLES:
        table = module.__dict__[name]
        needed = {k: h for k, h in table.items() if _of_torch(h)}
        module.__dict__[name] = OrderedDict(needed)


def _of_torch(hook: Any) -> bool:
    maker = getattr(hook, "__module__", None) or type(hook).__module__
    return maker.partition(".")[0] == "torch" or type(hook).__module__.startswith("torch.")


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes with a shallow copy of each."""
    values = module.__dict__.values()
    return [(v, copy.copy(v)) for v in values if type(v) in _CONTAINERS]


def _refill(container: Any, before: Any) -> None:
    """Put back into a list, dict, set or deque what was in it, in its order."""
    if type(container) is list:
        container[:] = before
        return
    container.clear()
    container.extend(before) if type(container) is deque else container.update(before)
