"""The loss as a function of the model's outputs, read from its autograd graph.

The loss is computed in the user's script, outside of every module. But between the model's outputs
and the number on which backward is called lie few operations, and each has saved what it needs to
be differentiated: targets, weights, constants. Noted while the graph is alive, they can be computed
again from other outputs. Whoever does so compares the value at the same outputs with the loss that
was seen: what could not be read right does not agree, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from surefoot.signals.operations import OPERATIONS, SUMS, Inputs, Known, Operation
from surefoot.signals.reach import operation_of
from surefoot.signals.saved import through_hooks

_MAX_OPERATIONS = 40
MARK = "surefoot"  # in the metadata of an output's node: (output number -> Leaf), by owner


@dataclass(slots=True, eq=False)
class Leaf:
    """Where the walk ends: output number `index` of one call of the model, made by `operation`."""

    entry: Any
    index: int
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter that the loss uses by itself, as a penalty on its size does."""

    key: int


class Unreadable(Exception):
    """The loss holds what is not known here; the message names it."""


@dataclass(slots=True)
class Criterion:
    """One loss, to be computed again. scale: the factor that GradScaler put on it."""

    root: Operation | Leaf | Weight
    scale: float = 1.0

    def __call__(
        self, outputs: Callable[[Leaf], torch.Tensor], weights: Mapping[int, torch.Tensor]
    ) -> torch.Tensor:
        """The loss [] for these outputs, differentiable; GradScaler's factor is divided out.

        The first call must be made with the outputs of the step itself: constants that nobody has
        saved are found then.
        """
        made: dict[int, torch.Tensor] = {}
        return _value(self.root, outputs, weights, made).sum() / self.scale

    def leaves(self) -> list[Leaf]:
        """The outputs it is made of."""
        return [x for x in _walk(self.root) if isinstance(x, Leaf)]

    def constants(self) -> list[torch.Tensor]:
        """What its operations have saved."""
        operations = [x for x in _walk(self.root) if isinstance(x, Operation)]
        return [t for x in operations for t in _tensors_of(x)]

    def copied(self, entries: Mapping[int, Any]) -> Criterion:
        """The same on copies of all tensors; `entries` maps id(entry) to what replaces it."""
        done: dict[int, Any] = {}

        def copy(x: Any) -> Any:
            if isinstance(x, Leaf):
                return Leaf(entries[id(x.entry)], x.index, x.operation)
            if not isinstance(x, Operation):
                return x
            if id(x) not in done:
                done[id(x)] = Operation(
                    x.name,
                    {k: _cloned(v) for k, v in x.saved.items()},
                    [copy(i) for i in x.inputs],
                    x.shape,
                    x.dtype,
                    _cloned(x.total),
                    _cloned(x.constant),
                )
            return done[id(x)]

        return Criterion(copy(self.root), self.scale)


def mark(node: Any, number: int, owner: int, leaf: Leaf) -> None:
    """Note on the node of the graph that made an output, as its output of this number, that it is
    one; `owner` tells listeners apart."""
    metadata: dict[str, Any] = node.metadata
    marks = metadata.get(MARK)
    if marks is None:
        metadata[MARK] = {(owner, number): leaf}
    else:
        marks[owner, number] = leaf


def criterion(loss: torch.Tensor, owner: int, scale: float = 1.0) -> Criterion:
    """Read a loss [] down to the outputs that `owner` has marked; call before backward.

    Raises Unreadable. Costs a microsecond or two for each operation, at most 40 of them.
    """
    seen: dict[Any, Operation] = {}
    return Criterion(_read(loss.grad_fn, 0, owner, seen, None), scale)


def _read(
    node: Any, number: int, owner: int, seen: dict[Any, Operation], total: torch.Tensor | None
) -> Operation | Leaf | Weight:
    marks = node.metadata.get(MARK)
    if marks is not None and (owner, number) in marks:
        leaf = marks[owner, number]
        leaf.operation = leaf.operation or operation_of(node)
        return leaf
    if node in seen:
        return seen[node]
    name = node.name().rpartition("::")[2]
    if name == "AccumulateGrad":
        return Weight(id(node.variable))
    found = OPERATIONS.get(name)
    if found is None or number or len(seen) >= _MAX_OPERATIONS:
        raise Unreadable(f"the loss holds {name.removesuffix('Backward0')}")
    made = seen[node] = Operation(name, _saved(node, found), [])
    if found.shaped:
        meta = node._input_metadata[0]
        made.shape, made.dtype = tuple(meta.shape), meta.dtype
    known = len(found.known)
    for i, (following, at) in enumerate(node.next_functions):
        if following is None:
            made.inputs.append(None)
            continue
        value = made.saved[found.known[i]] if i < known else None
        if value is None and total is not None:
            value = _undone(made, total, tuple(following._input_metadata[at].shape))
        made.inputs.append(_read(following, at, owner, seen, value))
    if name in SUMS and total is not None and (len(made.inputs) == 1 or None in made.inputs):
        made.total = total.detach()  # otherwise it adds nought, or the check of the value will tell
    return made


def _undone(made: Operation, total: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The value that went into a multiplication, from what came of it; None if that is lost."""
    total, other = total.detach(), made.saved.get("other")
    if other is None and made.name == "MulBackward0":
        other = made.saved.get("self")
    if made.name == "NegBackward0":
        value = -total
    elif made.name == "MulBackward0" and other is not None and bool((other != 0).all()):
        value = total / other.detach()
    elif made.name == "DivBackward0" and other is not None:
        value = total * other.detach()
    else:
        return None
    return value if tuple(value.shape) == shape else None


def _saved(node: Any, found: Known) -> dict[str, Any]:
    """What a node has saved, unless a hook of the user's would be called to bring it back."""
    try:
        for raw in found.tensors:
            if through_hooks(getattr(node, raw)):
                raise Unreadable("saved tensors of the loss pass through hooks of the script")
        return {name: getattr(node, attribute) for name, attribute in found.attributes}
    except (AttributeError, RuntimeError) as error:  # freed, or changed in place since
        raise Unreadable(f"{node.name()} no longer holds what it used") from error


def _walk(x: Any) -> list[Any]:
    found, stack = [], [x]
    while stack:
        y = stack.pop()
        if y is None or any(y is z for z in found):
            continue
        found.append(y)
        stack += y.inputs if isinstance(y, Operation) else []
    return found


def _cloned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return tuple(map(_cloned, value)) if isinstance(value, tuple) else value


def _tensors_of(x: Operation) -> list[torch.Tensor]:
    flat = [*x.saved.values(), x.total, x.constant]
    flat += [t for v in x.saved.values() if isinstance(v, tuple) for t in v]
    return [t for t in flat if isinstance(t, torch.Tensor)]


def _value(
    x: Any,
    outputs: Callable[[Leaf], torch.Tensor],
    weights: Mapping[int, torch.Tensor],
    made: dict[int, torch.Tensor],
) -> torch.Tensor:
    if isinstance(x, Leaf):
        return outputs(x)
    if isinstance(x, Weight):
        if x.key not in weights:
            raise Unreadable("the loss uses a tensor that no module owns")
        return weights[x.key]
    if id(x) not in made:
        inputs = [None if i is None else _value(i, outputs, weights, made) for i in x.inputs]
        made[id(x)] = _compute(x, inputs)
    return made[id(x)]


def _compute(x: Operation, inputs: Inputs) -> torch.Tensor:
    wide = any(i is not None and i.dtype is torch.float64 for i in inputs)
    saved = {k: _fit(v, wide) for k, v in x.saved.items()}
    if x.name not in SUMS:
        return OPERATIONS[x.name].compute(inputs, saved, x)
    if x.total is not None and x.constant is None:
        partial = SUMS[x.name](inputs, saved)
        x.constant = (x.total - partial).detach()
    total = SUMS[x.name](inputs, saved)
    return total if x.constant is None else total + _fit(x.constant, wide)


def _fit(value: Any, wide: bool) -> Any:
    """A saved value as the operation's argument: signed, detached, in float64 among float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.double() if wide and value.is_floating_point() else value
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value - 2**64 if value >= 2**63 else value  # torch saves it unsigned
    return tuple(_fit(v, wide) for v in value) if isinstance(value, tuple) else value
