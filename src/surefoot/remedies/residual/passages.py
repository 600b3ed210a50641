"""How a call of the model passes its modules: what comes in, what goes out, what goes around."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from surefoot.remedies.activation.substitution import ELEMENTWISE
from surefoot.remedies.sites import Node, Recorder, graph_behind, inputs_of, is_affine, record
from surefoot.remedies.subject import Subject


@dataclass(slots=True, eq=False)
class Passage:
    """One call of a module.

    came, went: shape and dtype of its first argument and of what it returns; marker: the node
    through which alone it has its argument; out: of what it returns; written: whether it writes on
    its argument.
    """

    time: int
    came: Any = None
    went: Any = None
    given: torch.Tensor | None = None
    marker: Node = None
    out: Node = None
    written: bool = False

    @property
    def even(self) -> bool:
        """Whether what goes out looks like what came in, and has a gradient."""
        return (
            self.came is not None
            and self.came == self.went
            and None
            not in (
                self.marker,
                self.out,
            )
        )


class Passages:
    """All passages of a call, and the graph around them.

    marked: the modules around which a connection may be put; recorded: where elementwise functions
    are called.
    """

    def __init__(self, subject: Subject, marked: Collection[nn.Module]) -> None:
        self._subject = subject
        self._marked = {id(m) for m in marked}
        self._of: dict[int, list[Passage]] = {}
        self._open: list[Passage] = []
        self._time = 0
        self.recorded: Recorder = record(subject, ELEMENTWISE, self._follow)
        # Whatever else a model returns, the first is what it is for.
        self._consumers, _ = graph_behind(self.recorded.outputs[:1])
        self._inputs = {node: inputs_of(node) for node in self._consumers}

    def of(self, module: nn.Module) -> list[Passage]:
        """All calls of a module, in order."""
        return self._of.get(id(module), [])

    def after(self, module: nn.Module, passage: Passage) -> Passage | None:
        """The first call of a module after another passage began."""
        return next((p for p in self.of(module) if p.time > passage.time), None)

    def skipped(self, passage: Passage, out: Node = None) -> bool:
        """Whether the signal has another way, inside of the block or around it.

        out: node at which the block ends, where that is not the module's own output.
        """
        return self._inside(out or passage.out, passage.marker) or self._around(passage.marker)

    def _inside(self, out: Node, marker: Node) -> bool:
        """A way from the block's output to its input that no weights lie on."""
        seen, stack = {out}, [out]
        while stack:
            node = stack.pop()
            if node is marker:
                return True
            if not is_affine(node):
                new = [n for n in inputs_of(node) if n not in seen]
                seen.update(new)
                stack += new
        return False

    def _around(self, marker: Node) -> bool:
        """A way from the model's output to what lies before the block that is not through it."""
        before, seen = (
            self._closure([marker], None),
            self._closure(self.recorded.outputs[:1], marker),
        )
        return not (before - {marker}).isdisjoint(seen)

    def _closure(self, start: list[Node], without: Node) -> set[Node]:
        seen, stack = set(start), list(start)
        while stack:
            for node in self._inputs.get(stack.pop(), ()):
                if node is not without and node not in seen:
                    seen.add(node)
                    stack.append(node)
        return seen

    # -- hooks ------------------------------------------------------------------------------------

    def _follow(self) -> list[Any]:
        """Called when the model is set aside."""
        handles = []
        for _, module in self._subject.modules():
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave))
        call = self._subject.call
        assert call is not None
        handles.append(call.module.register_forward_pre_hook(_grown, with_kwargs=True))
        return handles

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        self._time += 1
        passage = Passage(self._time)
        self._of.setdefault(id(module), []).append(passage)
        self._open.append(passage)
        if not args or not isinstance(args[0], torch.Tensor) or not args[0].is_floating_point():
            return None
        passage.came = (args[0].shape, args[0].dtype)
        if id(module) not in self._marked:
            return None
        passage.given = args[0].clone()
        passage.marker = passage.given.grad_fn
        return (passage.given, *args[1:])

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        passage = self._open.pop()
        if isinstance(output, (tuple, list)) and output:  # blocks of older transformers
            output = output[0]
        if isinstance(output, torch.Tensor):
            passage.went = (output.shape, output.dtype)
            passage.out = output.grad_fn
        if passage.given is not None:
            passage.written = passage.given._version > 0
            passage.given = None


def _grown(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Inputs that have a node of their own in the graph."""

    def grow(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        return x.detach().clone().requires_grad_().clone()

    return tree_map(grow, (args, kwargs))
