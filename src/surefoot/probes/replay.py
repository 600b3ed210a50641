"""Replay: one step's forward and backward again, fully instrumented, outside of the run.

While a run goes on, an entry tap (`probes.tap`) keeps what the replay needs. On an alarm, before
the optimizer acts, the step is run again on the still unchanged parameters, with the model set
aside (`probes.aside`): RNG, buffers, module attributes, `.grad` and the script's hooks are left
alone. What a forward changes elsewhere, a global or a file, it changes twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from surefoot.layers import LayerTable
from surefoot.probes.aside import Refused, set_aside
from surefoot.probes.autocast import one_cache
from surefoot.probes.comparison import common_factor
from surefoot.probes.entry import Entry, call_again
from surefoot.probes.flow import FlowProbe
from surefoot.probes.loss_origin import in_the_loss
from surefoot.probes.origin import Origin, OriginMode, stored
from surefoot.probes.safely import failed, in_words, raise_failure
from surefoot.probes.statistics import float_tensors
from surefoot.signals.criterion import Criterion
from surefoot.signals.flow import Flow


class _Unwilling(Exception):
    """The model's own code, or torch for it, would not run again."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay gave: the flow, and whether it is the step bit for bit, in its gradients or, of
    several processes, in its outputs; None where there was nothing to compare it with.

    factor: one number that the step's were multiplied by before they were compared, as clipping and
    GradScaler do. gradients: id(parameter) -> what was found, before any hook of the script's.
    """

    flow: Flow
    exact: bool | None
    factor: float = 1.0
    gradients: Mapping[int, torch.Tensor] = field(default_factory=dict)


def replay(
    step: int,
    entries: list[Entry],
    table: LayerTable,
    modules: list[nn.Module],
    gradients: dict[int, torch.Tensor] | None,
    search: bool = True,
    criteria: Sequence[Criterion] = (),
) -> Replay | str:
    """Run the entries again under a flow probe; a string says why it was refused.

    `gradients` maps id(parameter) to the step's own gradient, to compare with; None where those
    are made of other processes' as well, and the outputs that were kept are compared instead.
    `search` looks for the operation that made the first non-finite value, in the step's losses
    (`criteria`) as well. Costs about two forward and backward passes, with the search about twenty.
    """
    used = [e for e in entries if e.received]
    if not used:
        return "no module call of this step received a gradient"
    refusal = next(filter(None, (e.refusal() for e in used)), "")
    if refusal:
        return refusal
    made: Replay | None = None
    try:
        for shared in _ways(used):
            made = _attempt(step, used, table, modules, gradients, search, criteria, shared)
            if made.exact is not False:
                break
    except Refused as reason:
        return str(reason)
    except _Unwilling as reason:
        return f"refused: {reason}"
    assert made is not None
    return made


def _ways(used: list[Entry]) -> tuple[bool, ...]:
    """Whether weights that autocast has cast are shared between calls: if not known, both ways.

    They are where one `with torch.autocast` holds several calls, and then their gradients are added
    up in the narrow dtype.
    """
    casting = sum(e.casting.on and e.casting.cached for e in used)
    return (True, False) if casting > 1 else (False,)


def _attempt(
    step: int,
    used: list[Entry],
    table: LayerTable,
    modules: list[nn.Module],
    own: dict[int, torch.Tensor] | None,
    search: bool,
    criteria: Sequence[Criterion],
    shared: bool,
) -> Replay:
    probe = FlowProbe(table, modules)
    with set_aside(modules) as aliases:
        mode = OriginMode(partial(_open_layer, probe)) if search else None
        strangers = own is not None and not own.keys() <= aliases.keys()
        again = _Again(used, aliases, mode, strangers)
        probe.install(set_aside=True)
        try:
            with one_cache() if shared else contextlib.nullcontext():
                again.run()
        finally:
            probe.remove()  # whatever becomes of the rest
            flow = probe.collect(step, replayed=True)
        origin = again.origin
        if origin is not None and origin.where == "loss" and criteria:
            origin = in_the_loss(criteria, again.values, aliases) or origin
    raise_failure(probe)
    origin = None if failed(mode) else origin
    flow.origin = origin.to_json() if origin is not None else None
    if own is None:
        return Replay(flow, _same_outputs(used, again.values), gradients=again.found)
    return Replay(flow, *_likeness(again.found, own, aliases), again.found)


def _likeness(
    found: Mapping[int, torch.Tensor], own: Mapping[int, torch.Tensor], known: Mapping[int, Any]
) -> tuple[bool | None, float]:
    """Whether the step's own gradients are these, and what they were multiplied by; None where
    there is nothing left of them, as after clipping by a norm that is NaN."""
    # Another optimizer may hold the rest of the model's parameters: only those in both compare.
    shared = [k for k in found if k in own]
    unfed = [stored(g) for k, g in own.items() if k in known and k not in found]
    if not shared or any(bool(g.any()) for g in unfed):
        return False, 1.0
    factor = common_factor([found[k] for k in shared], [own[k] for k in shared])
    if factor is not None:
        return True, factor
    lost = all(bool(torch.isnan(stored(own[k])).all()) for k in shared)
    return (None if lost else False), 1.0


def _same_outputs(
    used: Sequence[Entry], made: Mapping[tuple[int, int], torch.Tensor]
) -> bool | None:
    pairs = [(y, made.get((id(e), i))) for e in used for i, y in e.outputs.items()]
    if not pairs:
        return None
    return all(z is not None and common_factor([z], [y]) == 1.0 for y, z in pairs)


def _open_layer(probe: FlowProbe) -> int | None:
    return next((layer for layer, call in reversed(probe._open) if call), None)


class _Again:
    """The forwards and backwards of some entries; call `run` inside `set_aside`.

    found: id(parameter) -> gradient; values: (id of the entry, number of the output) -> value.
    strangers: whether tensors are trained that have no alias.
    """

    def __init__(
        self,
        used: list[Entry],
        aliases: Mapping[int, torch.Tensor],
        mode: OriginMode | None,
        strangers: bool,
    ) -> None:
        self._left = list(used)
        self._made: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        self._aliases, self._mode, self._strangers = aliases, mode, strangers
        self._used = used
        self.found: dict[int, torch.Tensor] = {}
        self.values: dict[tuple[int, int], torch.Tensor] = {}
        self.origin: Origin | None = None

    def run(self) -> None:
        """In the order of the step: each backward call, and before it the forwards that it needs.

        A backward of several entries is one: torch adds up what comes to a weight in the order in
        which the calls were made.
        """
        tasks = sorted({task for e in self._used for task, *_ in e.received})
        for task in tasks:
            taking = [e for e in self._used if any(t == task for t, *_ in e.received)]
            while any(e in self._left for e in taking):
                self._forward(self._left.pop(0))
            later = {id(e) for e in self._used if any(t > task for t, *_ in e.received)}
            self._backward(task, taking, retain=any(id(e) in later for e in taking))
            for entry in taking:
                if id(entry) not in later:
                    del self._made[id(entry)]

    def _forward(self, entry: Entry) -> None:
        try:
            outputs, inputs = call_again(entry, self._mode or contextlib.nullcontext())
        except Refused:
            raise
        except Exception as error:
            raise _Unwilling(in_words(error)) from error
        self._made[id(entry)] = outputs, inputs
        self.values.update({(id(entry), i): y.detach() for i, y in enumerate(outputs)})
        seen = self._mode.forward_origin() if self._mode else None
        self.origin = self.origin or _nonfinite_input(entry) or seen

    def _backward(self, task: int, entries: list[Entry], retain: bool) -> None:
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        leaves = dict(self._aliases)
        for entry in entries:
            outputs, inputs = self._made[id(entry)]
            got = [(i, g) for t, i, g in entry.received if t == task and i < len(outputs)]
            pairs += [(outputs[i], g) for i, g in got if outputs[i].requires_grad]
            leaves |= {id(t): t for t in inputs if t.requires_grad}
        if self.origin is None and any(not bool(torch.isfinite(g).all()) for _, g in pairs):
            self.origin = Origin("loss", "loss", None)
        if not pairs:
            return
        ends = [y for y, _ in pairs]
        if self._mode:
            self._mode.follow_backward(ends)
        inner = _inside(ends)
        roots = [(y, g) for y, g in pairs if y.grad_fn not in inner]
        handles = [y.register_hook(partial(_instead, g)) for y, g in pairs if y.grad_fn in inner]
        try:
            found = self._differentiate(roots, leaves, retain)
        except Refused:
            raise
        except Exception as error:
            raise _Unwilling(in_words(error)) from error
        for key, gradient in found.items():
            if key in self._aliases:
                before = self.found.get(key)
                self.found[key] = gradient if before is None else before + gradient
        for handle in handles:
            handle.remove()
        self.origin = self.origin or (self._mode.backward_origin() if self._mode else None)

    def _differentiate(
        self,
        roots: list[tuple[torch.Tensor, torch.Tensor]],
        leaves: Mapping[int, torch.Tensor],
        retain: bool,
    ) -> dict[int, torch.Tensor]:
        ends, given = [y for y, _ in roots], [g for _, g in roots]
        if not any(n.name() == "CheckpointFunctionBackward" for n in _nodes(ends)):
            made = torch.autograd.grad(
                ends, list(leaves.values()), given, retain_graph=retain, allow_unused=True
            )
            return {k: g for k, g in zip(leaves, made, strict=True) if g is not None}
        # Reentrant checkpointing allows only this kind of backward, which adds to `.grad` of
        # whatever it comes to: of aliases and fresh inputs, and there must be nothing else.
        if self._strangers or _foreign(ends, leaves.values()):
            raise Refused("reentrant checkpointing, with a trained tensor that no module owns")
        torch.autograd.backward(ends, given, retain_graph=retain)
        grads = {k: t.grad for k, t in leaves.items()}
        for t in leaves.values():
            t.grad = None
        return {k: g for k, g in grads.items() if g is not None}


def _instead(recorded: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """What arrived at an output that others were made from holds what came through those."""
    return recorded


def _nodes(ends: Sequence[torch.Tensor]) -> Iterator[Any]:
    """The nodes of the graph behind some tensors, each once."""
    seen: set[Any] = set()
    stack = [y.grad_fn for y in ends]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [n for n, _ in node.next_functions]


def _inside(ends: Sequence[torch.Tensor]) -> set[Any]:
    """The nodes that lie behind those of `ends`: outputs made there went into other outputs, as the
    logits of a model that gives its loss."""
    seen: set[Any] = set()
    stack = [n for y in ends if y.grad_fn is not None for n, _ in y.grad_fn.next_functions]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [n for n, _ in node.next_functions]
    return seen


def _foreign(ends: Sequence[torch.Tensor], known: Any) -> bool:
    """Whether a backward from `ends` would come to a leaf that is none of the known."""
    ours = {id(t) for t in known}
    leaves = [n.variable for n in _nodes(ends) if n.name().endswith("AccumulateGrad")]
    return any(id(t) not in ours for t in leaves)


def _nonfinite_input(entry: Entry) -> Origin | None:
    for tensor in float_tensors((entry.args, entry.kwargs)):
        if not bool(torch.isfinite(tensor).all()):
            return Origin("input", "input", None, dtype=str(tensor.dtype).removeprefix("torch."))
    return None
