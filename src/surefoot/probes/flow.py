"""The flow probe: one step of a live training, or of a replay, measured at every module.

Forward hooks and tensor hooks only: they see the same tensors that the training uses, change none
of them, and tolerate in-place operations (`register_full_backward_hook` raises on them). Tensors
are measured when they pass and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from surefoot.kernels.pieces import is_distributed
from surefoot.layers import Kind, LayerTable
from surefoot.probes import statistics
from surefoot.probes.module_hooks import Placed, Unseen, all_or_none, place
from surefoot.probes.recurrence import through_time
from surefoot.probes.restoring import thoroughly
from surefoot.probes.safely import safely
from surefoot.signals.flow import Call, Flow, TensorStats

_WEIGHTED_NODES = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "Embedding", "Scaled")
_MAX_CALLS = 20_000  # a recurrence over thousands of cell calls is sampled by its first ones
_MAX_WALK = 64  # autograd nodes looked at for a skip connection
_MAX_SOFTMAX = 24  # autograd nodes from a module's output to the softmax inside of it
_HEAD = 512  # elements compared to recognise a functional activation
_ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}


class FlowProbe:
    """Instruments `modules` (indexed as in `table`) between `install` and `collect`.

    entries: the modules that the script called itself, in order of their first call. sharded:
    whether a module computed with weights that lie in pieces on several ranks: then so do tensors
    between modules, and no one knows which.
    """

    def __init__(self, table: LayerTable, modules: list[nn.Module]) -> None:
        self._table = table
        self._modules = modules
        self._handles: list[Placed] = []
        self.failure: Exception | None = None
        self.sharded = False
        self._clear()

    def _clear(self) -> None:
        self._calls: list[Call] = []
        self._open: list[tuple[int, Call | None]] = []
        self._data: set[int] = set()
        self._outputs: set[tuple[float, ...]] = set()
        self._forward: set[int] = set()  # layers that were called before any backward
        self._nodes: dict[Any, int] = {}
        # By order: the first call that was fed the same tensor as this one.
        self._twins: dict[int, int] = {}
        self._makers: dict[Any, Call] = {}  # affine calls by the node of what they made
        self._pending: tuple[Call, torch.Tensor, Any] | None = None
        self._recurrent: list[tuple[Call, nn.RNNBase, torch.Tensor]] = []
        self._last_grad: tuple[Any, TensorStats] | None = None
        self._softmaxes: set[Any] = set()
        self.entries: list[int] = []

    def install(self, set_aside: bool = False) -> None:
        """Put the hooks in place; from then on the modules are no longer kept alive.

        set_aside: whether the modules have tables of hooks for this alone, as in a replay.
        """
        modules, self._modules = self._modules, []
        with all_or_none():
            for i, module in enumerate(modules):
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                hooks = partial(self._enter, i), partial(self._leave, i)
                placed = place(module, *hooks, set_aside=set_aside, with_kwargs=True)
                if placed is not None:
                    self._handles.append(placed)

    def remove(self) -> None:
        """Take every hook away; what was measured stays until `collect`."""
        thoroughly([handle.remove for handle in self._handles])
        self._handles.clear()

    def collect(self, step: int, replayed: bool = False) -> Flow:
        """The flow seen since `install`; removes the hooks and forgets everything."""
        self.remove()
        for call, module, x in self._recurrent:
            call.through_time = through_time(module, x)
        flow = Flow(step, self._calls, replayed)
        entries = self.entries
        self._clear()
        self.entries = entries
        return flow

    @safely
    def _enter(self, layer: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        call = None
        # Without gradients only what belongs to a step is of interest: a part that is cut off.
        inside = bool(self._open) and self._open[-1][1] is not None
        self.sharded = self.sharded or any(map(is_distributed, module._parameters.values()))
        usable = (torch.is_grad_enabled() or inside) and not self.sharded
        # During backward, checkpointing runs forwards again. They were seen, unless they ran
        # without gradients and the script itself called them.
        if torch._C._current_graph_task_id() != -1:
            usable = usable and layer not in self._forward
        elif usable:
            self._forward.add(layer)
        if usable and len(self._calls) < _MAX_CALLS:
            call = self._begin(layer, module, args, kwargs)
        self._open.append((layer, call))

    def _begin(self, layer: int, module: nn.Module, args: Any, kwargs: Any) -> Call:
        call = Call(layer, len(self._calls), depth=len(self._open))
        if call.depth == 0 and layer not in self.entries:
            self.entries.append(layer)
        x = next(statistics.float_tensors((args, kwargs)), None)
        if x is not None:
            call.input = statistics.tensor_stats(x)
            call.batch = x.shape[0] if x.dim() else 1
            if call.depth == 0 and not self._was_made(call.input):
                self._data.add(_storage(x))
                call.spread = statistics.spread(x)
            call.connected = x.requires_grad or _storage(x) in self._data
            self._see_activation(x)
            if x.requires_grad:
                x.register_hook(Unseen(partial(self._gradient, call, "grad_input")))
                self._see_skip(call, get_gradient_edge(x).node)
            if isinstance(module, nn.RNNBase):
                self._recurrent.append((call, module, _unpacked(args, module, x.detach())))
        self._calls.append(call)
        return call

    def _was_made(self, stats: TensorStats) -> bool:
        """Whether what enters here is what a module gave before: it is no data."""
        return stats.norm > 0 and _fingerprint(stats) in self._outputs

    @safely
    def _leave(self, layer: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # A forward that raised leaves its entry open: drop such entries on the way.
        while self._open:
            opened, call = self._open.pop()
            if opened == layer:
                break
        else:
            return
        y = next(statistics.float_tensors(output), None)
        if call is None or y is None:
            return
        call.output = statistics.tensor_stats(y)
        self._outputs.add(_fingerprint(call.output))
        call.dtype = str(y.dtype).removeprefix("torch.")
        if y.requires_grad:
            y.register_hook(Unseen(partial(self._gradient, call, "grad_output")))
        info = self._table.layers[layer]
        if info.kind is not Kind.EMBEDDING:
            call.cosine = statistics.mean_cosine(y)
        if info.leaf:
            self._see_leaf(call, info.kind, module, y)
        else:
            self._see_softmax(call, y)

    def _see_leaf(self, call: Call, kind: Kind, module: nn.Module, y: torch.Tensor) -> None:
        if kind is Kind.ACTIVATION:
            name = _ACTIVATIONS.get(type(module).__name__)
            call.activation = name or type(module).__name__.lower()
            call.frozen = statistics.frozen_share(name, y) if name else None
        weight = getattr(module, "weight", None)
        if kind.weighted and isinstance(weight, torch.Tensor) and not is_distributed(weight):
            call.weight_norm = statistics.tensor_stats(weight).norm
            transposed = type(module).__name__ == "Conv1D" or "Transpose" in type(module).__name__
            call.weight_rows = weight.shape[1 if transposed else 0]
        if kind.weighted and y.grad_fn is not None:
            self._makers[y.grad_fn] = call
        if kind.weighted or kind is Kind.NORMALIZATION:
            # A copy: a functional in-place activation may overwrite the output itself.
            self._pending = (call, y.detach().flatten()[:_HEAD].clone(), y.shape)

    def _see_softmax(self, call: Call, y: torch.Tensor) -> None:
        """Find the softmax inside of attention, which no hook sees, by its node in the graph."""
        queue, seen = [y.grad_fn], set()
        while queue and len(seen) < _MAX_SOFTMAX:
            node = queue.pop(0)
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.name().rpartition("::")[2] == "SoftmaxBackward0":
                if node not in self._softmaxes:
                    self._softmaxes.add(node)
                    call.activation, call.frozen = "softmax", statistics.one_hot_share(node)
                return
            queue += [n for n, _ in node.next_functions]

    def _see_activation(self, x: torch.Tensor) -> None:
        """Recognise a functional activation between the last affine output and this input."""
        if self._pending is None:
            return
        call, before, shape = self._pending
        if x.shape == shape:
            after = x.detach().flatten()[:_HEAD]
            call.activation = statistics.recognise_activation(before, after)
            if call.activation is not None:
                call.frozen = statistics.frozen_share(call.activation, x)
        self._pending = None

    def _see_skip(self, call: Call, start: Any) -> None:
        """Mark the calls that a path to this call's input leads past, free of weights or with one.

        The one is a projection: of the maps that the block's own input goes into, the one whose
        result is added at its end.
        """
        if start in self._nodes:
            first = self._nodes[start]
            self._twins[first] = self._twins[call.order] = first
            call.sources = self._calls[first].sources
            return  # the input of an earlier call as well: a branch beside it, not a path past it
        seen, queue = {start}, [start]
        stops: dict[Any, int] = {}  # where the walk ends -> the first call that this goes into
        while queue and len(seen) < _MAX_WALK:
            node = queue.pop(0)
            if node is None:
                continue
            known = self._nodes.get(node) if node is not start else None
            affine = node.name().rpartition("::")[2].startswith(_WEIGHTED_NODES)
            if known is not None or affine:
                # What lies before a known point was walked from there.
                stops[node] = call.order if known is None else known
                continue
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    queue.append(following)
        call.sources = self._sources(stops, call)
        earliest = min([*stops.values(), *self._projection(call, stops)], default=call.order)
        # A path past them joins what they made; one that joins nothing is a branch beside them.
        joins = max(stops.values(), default=earliest) > earliest
        if joins and any(map(self._weighted, self._calls[earliest : call.order])):
            self._pass_by(earliest, call)
        for node in stops:  # padded, or otherwise prepared, by each that takes it in
            self._nodes.setdefault(node, call.order)
        if start is not None:
            self._nodes[start] = call.order

    def _sources(self, stops: Mapping[Any, int], call: Call) -> list[int]:
        """The affine calls behind the places where a walk ended."""
        found: set[int] = set()
        for node, order in stops.items():
            maker = self._makers.get(node)
            if maker is not None:
                found.add(maker.order)
            elif order < call.order:
                found.update(self._calls[order].sources)
        return sorted(found)

    def _pass_by(self, earliest: int, call: Call) -> None:
        self._calls[earliest].fork = True
        inside = [c for _, c in self._open]
        for passed in self._calls[earliest : call.order]:
            # A path inside of a module does not lead past it.
            passed.identity = passed.identity or not any(c is passed for c in inside)

    def _weighted(self, call: Call) -> bool:
        return self._table.layers[call.layer].kind.weighted

    def _projection(self, call: Call, stops: Mapping[Any, int]) -> list[int]:
        """Where a block begins whose input comes to `call` through one map as well as through all.

        stops: the nodes of what is added up there.
        """
        makers = [m for node in stops if (m := self._makers.get(node)) is not None]
        for maker in makers if len(stops) > 1 else ():
            first = self._twins.get(maker.order)
            if first is None:
                continue
            inner = self._calls[first : call.order]
            if any(self._weighted(c) and self._twins.get(c.order) != first for c in inner):
                return [first]
        return []

    @safely
    def _gradient(self, call: Call, field: str, gradient: torch.Tensor | None) -> None:
        if gradient is None:  # what an autograd function of the user's gives for no gradient
            return
        if self._last_grad is None or self._last_grad[0] is not gradient:
            self._last_grad = (gradient, statistics.tensor_stats(gradient))
        stats = self._last_grad[1]
        if getattr(call, field) is None:
            setattr(call, field, stats)


def _unpacked(args: Any, module: nn.RNNBase, x: torch.Tensor) -> torch.Tensor:
    """The input of a recurrent layer; of a packed one the sequences that are not padded
    half-way."""
    if not args or not isinstance(args[0], nn.utils.rnn.PackedSequence):
        return x
    padded, lengths = nn.utils.rnn.pad_packed_sequence(args[0], batch_first=True)
    length = int(lengths.median())
    whole = padded[lengths >= length, :length].detach()
    return whole if module.batch_first else whole.transpose(0, 1)


def _fingerprint(stats: TensorStats) -> tuple[float, ...]:
    """What tells a tensor's values from those of any other, as good as surely."""
    return stats.norm, stats.maxabs, stats.mean, stats.numel


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
