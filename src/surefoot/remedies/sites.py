"""Where a model calls functions of torch: the places, what surrounds each in the graph.

A place is a call of, say, `torch.sigmoid` in the forward of a module, whether that module is an
`nn.Sigmoid` or one that calls functions in its own code. It is known by the module, by which call
of that module it belongs to, and by how many such calls came before it there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from surefoot.layers import kind_of
from surefoot.probes.attributes import Refused
from surefoot.probes.statistics import float_tensors
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import FUNCTIONS

Node = Any  # of autograd's graph
_AFFINE = ("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Convolution", "Linear", "Addbmm")
_AFFINE += ("SlowConv", "Mkldnn", "Cudnn", "Miopen", "Thnn", "ScaledDotProduct", "Embedding")
_NORMS = ("NativeLayerNorm", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm", "FusedRmsNorm")
_NORMS += ("MiopenBatchNorm",)
_PRODUCTS = ("Mul", "Lerp", "Addcmul", "Glu")
_NEAR = 12  # nodes looked at around a place
_SYNONYMS = {"special_expit": "sigmoid", "log_sigmoid": "logsigmoid"}


@dataclass(slots=True, eq=False)
class Site:
    """One place at which a function is called.

    module: the innermost one in whose forward that is; call, occurrence: the how manieth of its
    calls, and of the places in it; behind: the affine layer that its argument comes from;
    normalised: whether a normalisation lies between; hidden: whether an affine layer comes after;
    output: whether it reaches the output, and none does; gate: whether what it gives is multiplied
    by another activation.
    """

    module: nn.Module
    name: str
    function: str
    call: int
    occurrence: int
    shape: tuple[int, ...]
    node: Node
    position: Any
    source: Node = None
    behind: nn.Module | None = None
    normalised: bool = False
    hidden: bool = False
    output: bool = False
    gate: bool = False


def name_of(function: Any) -> str:
    """The name of a function of torch, the same for all its spellings.

    >>> name_of(torch.Tensor.tanh_), name_of(torch.special.expit)
    ('tanh', 'sigmoid')
    """
    name = getattr(function, "__name__", "")
    name = name if name.startswith("_") else name.rstrip("_")
    return _SYNONYMS.get(name, name)


def is_affine(node: Node) -> bool:
    """Whether a node of the graph is a product with weights, or with other activations."""
    name = node.name().rpartition("::")[2]
    return name.startswith(_AFFINE) and not is_norm(node)


def is_norm(node: Node) -> bool:
    """Whether a node of the graph is a normalisation."""
    return node.name().rpartition("::")[2].startswith(_NORMS)


def inputs_of(node: Node) -> list[Node]:
    """The nodes that a node takes activations from, each once; parameters are left out."""
    found = [n for n, _ in node.next_functions if n is not None and not _constant(n)]
    return list(dict.fromkeys(found))


def _constant(node: Node) -> bool:
    """Whether nothing but a parameter lies behind a node."""
    for _ in range(_NEAR):
        behind = [n for n, _ in node.next_functions if n is not None]
        if is_affine(node):  # rows of an embedding are a signal
            return False
        if not behind:
            return isinstance(getattr(node, "variable", None), nn.Parameter)
        if len(behind) > 1:
            return False
        node = behind[0]
    return False


class Recorder(TorchFunctionMode):
    """Writes down the places of some functions, and where affine layers' outputs come from.

    sites; made_by: node of an affine layer's output -> the layer; outputs: nodes of the output.
    """

    def __init__(self, functions: Collection[str]) -> None:
        super().__init__()
        self.functions = functions
        self.sites: list[Site] = []
        self.made_by: dict[Node, nn.Module] = {}
        self.outputs: list[Node] = []
        self._stack: list[list[Any]] = []  # [module, name, call, places so far]
        self._calls: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        source = None
        wanted = name_of(func) in self.functions and bool(self._stack)
        if wanted:
            x = argument(args, kwargs or {})
            source = getattr(x, "grad_fn", None)
        out = func(*args, **(kwargs or {}))
        if wanted and isinstance(out, torch.Tensor):
            module, name, call, place = self._stack[-1]
            self._stack[-1][3] += 1
            where, shape = _caller(), tuple(out.shape)
            site = Site(module, name, name_of(func), call, place, shape, out.grad_fn, where, source)
            self.sites.append(site)
        return out

    def enter(self, name: str, module: nn.Module) -> None:
        """A module is about to be called."""
        call = self._calls.get(id(module), 0)
        self._calls[id(module)] = call + 1
        self._stack.append([module, name, call, 0])

    def leave(self, module: nn.Module, output: Any) -> None:
        """A module has been called."""
        self._stack.pop()
        node = getattr(output, "grad_fn", None)
        if node is not None and kind_of(module).weighted:
            self.made_by[node] = module


def _caller() -> Any:
    """Where in the code of somebody else the call stands."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("torch."):
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame is not None else None


def argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a function is computed of."""
    return args[0] if args else kwargs.get("input")


def record(
    subject: Subject,
    functions: Collection[str],
    follow: Callable[[], list[Any]] = list,
) -> Recorder:
    """The first call made again, with all places of some functions, as the graph has them.

    follow: puts further hooks on the modules, and returns how to remove them.

    Raises NotApplicable without a call, and where the model refuses to be called again.
    """
    recorder = Recorder(functions)
    try:
        with subject.trying() as again, torch.enable_grad():
            handles = [*_follow(subject, recorder), *follow()]
            try:
                with recorder:
                    output = again()
            finally:
                for handle in handles:
                    handle.remove()
            tensors = list(float_tensors(output))
    except NotApplicable:
        raise
    except Refused as error:
        raise NotApplicable(str(error)) from error
    except Exception as error:
        raise NotApplicable(f"the model refused to be called again ({error})") from error
    recorder.outputs = [t.grad_fn for t in tensors if t.grad_fn is not None]
    _place(recorder)
    return recorder


def _follow(subject: Subject, recorder: Recorder) -> list[Any]:
    """Hooks that tell the recorder where it is; frozen parameters have a graph as well."""
    handles = []
    for name, module in subject.modules():
        handles.append(
            module.register_forward_pre_hook(lambda m, a, name=name: recorder.enter(name, m))
        )
        handles.append(module.register_forward_hook(lambda m, a, out: recorder.leave(m, out)))
        for parameter in module.parameters(False):
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
    return handles


def _place(recorder: Recorder) -> None:
    """Fill in what the graph says about each place."""
    consumers, order = graph_behind(recorder.outputs)
    followed: dict[Node, bool] = {}  # node -> whether an affine one comes after it
    for node in order:
        followed[node] = any(is_affine(c) or followed[c] for c in consumers[node])
    for site in recorder.sites:
        site.behind, site.normalised = _layer_behind(site.source, recorder.made_by)
        if site.node in followed:
            site.hidden = followed[site.node]
            site.output = not site.hidden
            site.gate = _multiplied(site.node, consumers)
    gates = {(id(s.module), s.position) for s in recorder.sites if s.gate}
    for site in recorder.sites:  # the first step of a loop may find a constant beside its gate
        site.gate = site.gate or (id(site.module), site.position) in gates


def graph_behind(outputs: Iterable[Node]) -> tuple[dict[Node, list[Node]], list[Node]]:
    """(node -> the nodes that take it, all nodes with every node after those that take it)."""
    consumers: dict[Node, list[Node]] = {node: [] for node in outputs}
    order: list[Node] = []
    stack = [(node, False) for node in consumers]
    seen: set[Node] = set()
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            for behind, _ in node.next_functions:
                if behind is not None:
                    consumers.setdefault(behind, []).append(node)
                    stack.append((behind, False))
    return consumers, order[::-1]


def _layer_behind(node: Node, made_by: dict[Node, nn.Module]) -> tuple[nn.Module | None, bool]:
    normalised = False
    for _ in range(_NEAR):
        if node is None:
            break
        if node in made_by:
            return made_by[node], normalised
        normalised = normalised or is_norm(node)
        behind = inputs_of(node)
        if is_affine(node) or len(behind) != 1 or _elementwise(node):
            break
        node = behind[0]
    return None, normalised


def _elementwise(node: Node) -> bool:
    return node.name().rpartition("::")[2] in FUNCTIONS


def _multiplied(node: Node, consumers: dict[Node, list[Node]]) -> bool:
    """Whether a result is multiplied by another activation, through views, sums and 1 - x."""
    near, seen = [node], {node}
    for _ in range(_NEAR):
        further = []
        for taken in near:
            for user in consumers[taken]:
                inputs = inputs_of(user)
                name = user.name().rpartition("::")[2]
                if name.startswith(_PRODUCTS):
                    others = [i for i in inputs if i is not taken and not _scale_of(i, node)]
                    if others:
                        return True
                if len(inputs) == 1 and user not in seen and not (is_affine(user) or is_norm(user)):
                    further.append(user)
                    seen.add(user)
        near = [n for n in further if not _elementwise(n)]
    return False


def _scale_of(factor: Node, node: Node) -> bool:
    """Whether a factor is made of the result itself alone, as the root of its mean square is."""
    for _ in range(_NEAR):
        if factor is node:
            return True
        inputs = inputs_of(factor)
        if len(inputs) != 1 or is_affine(factor) or _elementwise(factor):
            return False
        factor = inputs[0]
    return False


def within(subject: Subject, sites: Iterable[Site], target: str | None) -> Iterator[Site]:
    """Those of the places that a target names: their module, or the affine layer behind them."""
    named = {id(m) for _, m in subject.modules(target)}
    return (s for s in sites if id(s.module) in named or id(s.behind) in named)


Answer = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass(slots=True)
class Plan:
    """What is to be done at the places of one module: by call, and by occurrence in it."""

    calls: list[list[Any]] = field(default_factory=list)

    @property
    def mixed(self) -> bool:
        """Whether different things are to be done at the same place in different calls."""
        longest = max(map(len, self.calls), default=0)
        at = [{c[i] for c in self.calls if i < len(c)} for i in range(longest)]
        return any(len(planned) > 1 for planned in at)

    def at(self, call: int, occurrence: int) -> Any:
        """What was planned for a place; for one that was not seen, what all others have.

        The number of the call matters only where the calls of a module differ.
        """
        alike = [c[occurrence] for c in self.calls if occurrence < len(c)]
        alike = alike or [x for c in self.calls for x in c]
        if all(x == alike[0] for x in alike):
            return alike[0] if alike else None
        known = call < len(self.calls) and occurrence < len(self.calls[call])
        return self.calls[call][occurrence] if known else None


def plans_for(sites: Iterable[Site], chosen: dict[Site, Any]) -> list[tuple[nn.Module, Plan]]:
    """Each module with a place, and its plan; what is not chosen is left alone."""
    plans: dict[int, tuple[nn.Module, Plan]] = {}
    for site in sites:
        calls = plans.setdefault(id(site.module), (site.module, Plan()))[1].calls
        while len(calls) <= site.call:
            calls.append([])
        calls[site.call].append(chosen.get(site))
    return list(plans.values())
