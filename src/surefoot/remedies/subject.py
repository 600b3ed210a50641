"""What a remedy acts on: the models and optimizers of one training, and the model's first call.

Whatever a remedy does goes through here, so that all of it can be undone. A module keeps its name,
its parameters and its place: what it computes is changed by giving it a class of its own, as
`torch.nn.utils.parametrize` does, so that no hook can be muted and no code that looks for
`model.fc1.weight` is surprised.
"""

from __future__ import annotations

import fnmatch
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from surefoot.layers import kind_of, modules_of, unwrap
from surefoot.probes.aside import set_aside
from surefoot.probes.attributes import Refused
from surefoot.probes.random_state import accelerators, undisturbed

Around = Callable[..., Any]  # (inner, *args, **kwargs): what a module computes instead
Guard = Callable[..., Callable[[], Any]]  # (optimizers, model, **options) -> how to remove it


class NotApplicable(Exception):
    """The remedy cannot be applied here; the message says why, in a clause."""


@dataclass(slots=True)
class FirstCall:
    """A call of the model as the script makes it: the module, and what it is called with."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class Subject:
    """The live objects of one training. `undo` takes back all that was done, last first.

    models: roots; optimizers: may be empty, then new parameters are only registered; call: needed
    by remedies that look at data; guard: makes a guard, where one may be made.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> [name for name, _ in Subject([net]).weighted("*")]
    ['0', '2']
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer] = (),
        call: FirstCall | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.models = [unwrap(m) for m in models]
        self.optimizers = list(optimizers)
        self.call = call
        self.guard = guard
        self.adopted: list[nn.Parameter] = []  # parameters that were not there before
        self._undo: list[Callable[[], Any]] = []
        self._followers: list[Callable[[Any], None]] = []  # what is to be done at steps
        self._at_loss: list[Callable[[list[nn.Parameter]], Any]] = []
        self.live = False  # whether somebody tells of the losses
        self.loss: Callable[[int], torch.Tensor] | None = None  # of the k-th batch, where known

    # -- what there is --------------------------------------------------------------------------

    def modules(self, target: str | None = None) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of those that a target names: a name, all below it, or a pattern.

        Names are those of the layer table: with several models the class comes first.
        """
        seen: set[int] = set()
        for model in self.models:
            prefix = type(model).__name__ if len(self.models) > 1 else ""
            for name, module in modules_of(model, prefix):
                if id(module) not in seen and _named(name, target):
                    seen.add(id(module))
                    yield name, module

    def weighted(self, target: str | None = None) -> list[tuple[str, nn.Module]]:
        """Linear and convolution layers that a target names, with a matrix of their own."""
        return [
            (name, module)
            for name, module in self.modules(target)
            if kind_of(module).weighted
            and isinstance(getattr(module, "weight", None), nn.Parameter)
        ]

    @contextmanager
    def trying(self) -> Iterator[Callable[[], Any]]:
        """A function that makes the first call anew on copies: nothing of the training notices.

        Changes made through it to weights are seen by the next `trying`, not by this one. Raises
        NotApplicable where no call is known.
        """
        call = self.call
        if call is None:
            raise NotApplicable("it needs a batch to look at")
        modules = [m for root in self.models for m in root.modules()]

        def again() -> Any:
            args, kwargs = tree_map(_copied, (call.args, call.kwargs))
            return call.module(*args, **kwargs)

        with ExitStack() as stack:
            try:
                stack.enter_context(set_aside(modules))
            except Refused as reason:
                raise NotApplicable(f"it cannot be called aside: {reason}") from None
            yield again

    @contextmanager
    def drawing(self, seed: int = 0) -> Iterator[None]:
        """Random numbers drawn inside are the remedy's own: the training draws as before."""
        parameters = [p for m in self.models for p in m.parameters()]
        with undisturbed(accelerators(parameters)):
            torch.manual_seed(seed)
            yield

    # -- what is done to it ---------------------------------------------------------------------

    def on_undo(self, action: Callable[[], Any]) -> None:
        """Have something done when all is taken back."""
        self._undo.append(action)

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, whose present value comes back with `undo`; call before writing on it."""
        value = tensor.detach().clone()

        def restore() -> None:
            with torch.no_grad():
                tensor.copy_(value)

        self.on_undo(restore)
        return tensor

    def wrap(self, module: nn.Module, around: Around) -> None:
        """Have `around(inner, *args, **kwargs)` computed where the module is called.

        inner: what it computed before. The module's class becomes one made for it, a subclass of
        its own. Raises NotApplicable for a scripted module.
        """
        if isinstance(module, torch.jit.ScriptModule):
            raise NotApplicable("the model is a scripted one, whose code is fixed")
        if "forward" in vars(module):  # somebody has put one on the object itself
            self._wrap_own(module, around)
            return
        before = type(module)

        @functools.wraps(before.forward)  # whoever looks at its signature finds the script's
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return around(types.MethodType(before.forward, self), *args, **kwargs)

        names = {"__module__": before.__module__, "__qualname__": before.__qualname__}
        module.__class__ = type(before.__name__, (before,), {"forward": forward, **names})
        self.on_undo(lambda: setattr(module, "__class__", before))

    def computes(self, module: nn.Module, kind: type[nn.Module]) -> None:
        """A wrapped activation module computes what another class does: it goes by that name."""
        made: Any = type(module)
        made.__name__, made.__qualname__, made.__module__ = (
            kind.__name__,
            kind.__qualname__,
            kind.__module__,
        )

    def _wrap_own(self, module: nn.Module, around: Around) -> None:
        inner = vars(module)["forward"]

        @functools.wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return around(inner, *args, **kwargs)

        vars(module)["forward"] = forward
        self.on_undo(lambda: vars(module).__setitem__("forward", inner))

    def add(self, module: nn.Module, name: str, value: torch.Tensor) -> nn.Parameter:
        """Give a module a new parameter, trained by the optimizer that trains the module's own.

        Raises NotApplicable where the module has an attribute of that name.
        """
        if hasattr(module, name):
            raise NotApplicable(f"{type(module).__name__} has an attribute {name!r} already")
        parameter = nn.Parameter(value)
        module.register_parameter(name, parameter)
        self.on_undo(lambda: module._parameters.pop(name, None))
        self.adopted.append(parameter)
        self.on_undo(lambda: self._forget(parameter))
        if self.optimizers:
            self.train(parameter, beside=list(module.parameters()))
        return parameter

    def train(self, parameter: nn.Parameter, beside: Sequence[torch.Tensor] = ()) -> None:
        """Put a parameter into the optimizer, into the group of those it belongs with."""
        groups = [(o, g) for o in self.optimizers for g in o.param_groups]
        if not groups:
            raise NotApplicable("no optimizer is known yet")
        held = {id(p) for _, g in groups for p in g["params"]}
        if id(parameter) in held:
            return
        own = {id(p) for p in beside}
        optimizer, group = next(
            ((o, g) for o, g in groups if any(id(p) in own for p in g["params"])), groups[-1]
        )
        group["params"].append(parameter)

        def take_back() -> None:
            group["params"] = [p for p in group["params"] if p is not parameter]
            optimizer.state.pop(parameter, None)

        self.on_undo(take_back)

    def _forget(self, parameter: nn.Parameter) -> None:
        self.adopted = [p for p in self.adopted if p is not parameter]

    def before_step(self, act: Callable[[torch.optim.Optimizer], Any]) -> None:
        """Have something done each time an optimizer is about to step."""
        self._at_steps(act, "register_step_pre_hook")

    def after_step(self, act: Callable[[torch.optim.Optimizer], Any]) -> None:
        """Have something done each time an optimizer has stepped."""
        self._at_steps(act, "register_step_post_hook")

    def _at_steps(self, act: Callable[[torch.optim.Optimizer], Any], register: str) -> None:
        def hook(optimizer: Any, *_: Any) -> None:  # a value would replace the step's arguments
            act(optimizer)

        self.follow(lambda o: self.on_undo(getattr(o, register)(hook).remove))

    def follow(self, act: Callable[[torch.optim.Optimizer], Any]) -> None:
        """Do something to each optimizer there is, and to each one that comes.

        Raises NotApplicable where none is known.
        """
        for optimizer in self._known():
            act(optimizer)
        self._followers.append(act)
        self.on_undo(lambda: self._followers.remove(act))

    def take(self, optimizer: torch.optim.Optimizer) -> None:
        """One more optimizer of the same training: what is done at steps holds for it as well."""
        self.optimizers.append(optimizer)
        for follow in self._followers:
            follow(optimizer)

    def at_loss(self, act: Callable[[list[nn.Parameter]], Any]) -> None:
        """Have something done with the parameters that the first loss depends on.

        Raises NotApplicable where nobody tells of losses.
        """
        if not self.live:
            raise NotApplicable("it has to see the loss, in a run that is watched")
        self._at_loss.append(act)

    def loss_seen(self, leaves: list[nn.Parameter]) -> bool:
        """The first backward is about to begin; whether anything was done with it."""
        waiting, self._at_loss = self._at_loss, []
        for act in waiting:
            act(leaves)
        return bool(waiting)

    def guarded(self, **options: Any) -> None:
        """Put the optimizers under a guard, with the options of `surefoot.guard`."""
        if self.guard is None:
            raise NotApplicable("a guard is made by surefoot.guard(optimizer, model), in the code")
        make, model = self.guard, self.models[0] if self.models else None
        self.on_undo(make(self._known(), model, **options))
        together = {id(o) for o in self.optimizers}

        def follow(optimizer: torch.optim.Optimizer) -> None:
            if id(optimizer) not in together:
                self.on_undo(make([optimizer], model, **options))

        self.follow(follow)

    def _known(self) -> list[torch.optim.Optimizer]:
        if not self.optimizers:
            raise NotApplicable("it acts on the optimizer, and none is known")
        return self.optimizers

    def undo(self) -> None:
        """Take back everything, last first; idempotent."""
        while self._undo:
            self._undo.pop()()


def _named(name: str, target: str | None) -> bool:
    if target in (None, "", "*"):
        return True
    assert target is not None
    return name == target or name.startswith(f"{target}.") or fnmatch.fnmatchcase(name, target)


def _copied(value: Any) -> Any:
    """An input as it came: the model may write on it."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)
