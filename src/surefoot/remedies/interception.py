"""Something else computed at chosen places of a model, whether modules or functions are called."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from surefoot.compiler import leave_alone, outside
from surefoot.layers import Kind, kind_of
from surefoot.remedies.sites import Answer, Plan, Site, name_of, plans_for
from surefoot.remedies.subject import Around, Subject


class _State(threading.local):
    """Of one thread: the modules that are being called, and how often each has been."""

    def __init__(self) -> None:
        self.frames: list[_Frame] = []
        self.depth = 0
        self.counts: dict[int, int] = {}


class _Frame:
    """One call of a module: its plan and how many places have been passed."""

    def __init__(self, plan: Plan, call: int) -> None:
        self.plan, self.call, self.passed = plan, call, 0

    def next(self) -> Any:
        """What is planned for the place that is reached now."""
        self.passed += 1
        return self.plan.at(self.call, self.passed - 1)


class Interception:
    """Asks `answer(planned, function, args, kwargs)` at the places for which something is planned.

    functions: names of those whose calls were counted when the places were found.
    """

    def __init__(self, functions: Collection[str], answer: Answer) -> None:
        self.functions = frozenset(functions)
        self.answer = answer
        self._state = _State()

    def install(self, subject: Subject, sites: Iterable[Site], chosen: dict[Site, Any]) -> None:
        """Wrap the modules with places; and the roots, in which calls are counted, if need be."""
        plans = plans_for(sites, chosen)
        for module, plan in plans:
            wrap_apart(subject, module, partial(self._around, plan))
        for root in subject.models if any(plan.mixed for _, plan in plans) else ():
            wrap_apart(subject, root, self._root)

    @contextmanager
    def _inside(self) -> Iterator[_State]:
        state = self._state
        if not state.depth:
            state.counts = {}
        state.depth += 1
        try:
            yield state
        finally:
            state.depth -= 1

    def _root(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        with self._inside():
            return inner(*args, **kwargs)

    def _around(self, plan: Plan, inner: Any, *args: Any, **kwargs: Any) -> Any:
        with self._inside() as state:
            call = state.counts.get(id(plan), 0)
            state.counts[id(plan)] = call + 1
            frame = _Frame(plan, call)
            state.frames.append(frame)
            try:
                with _Mode(self, frame):
                    return inner(*args, **kwargs)
            finally:
                state.frames.pop()

    def planned(self, frame: _Frame, func: Any) -> Any:
        """What is planned for a call in a frame, None where it belongs to a module inside."""
        if self._state.frames[-1] is not frame or name_of(func) not in self.functions:
            return None
        return frame.next()


class _Mode(TorchFunctionMode):
    """Sees the calls of functions in the forward of one module."""

    def __init__(self, interception: Interception, frame: _Frame) -> None:
        super().__init__()
        self._interception, self._frame = interception, frame

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        planned = self._interception.planned(self._frame, func)
        if planned is None:
            return func(*args, **kwargs)
        return self._interception.answer(planned, func, args, kwargs)


def wrap_apart(subject: Subject, module: nn.Module, around: Around) -> None:
    """As `Subject.wrap`, run as it is written where the model is compiled.

    The compiler makes something else of a mode that counts.
    """

    def unseen(inner: Any, *args: Any, **kwargs: Any) -> Any:
        return outside(around, inner, *args, **kwargs)

    leave_alone(unseen)
    subject.wrap(module, unseen)


def renamed(subject: Subject, chosen: Iterable[Site], kind: type[nn.Module]) -> None:
    """Activation modules that compute something else are known by that: reports print the class."""
    for module in {id(s.module): s.module for s in chosen}.values():
        if kind_of(module) is Kind.ACTIVATION and "forward" not in vars(module):
            subject.computes(module, kind)


def modules_below(subject: Subject, target: str | None) -> list[nn.Module]:
    """The modules that a target names, without those inside of another of them."""
    named = [m for _, m in subject.modules(target)]
    inside = {id(c) for m in named for c in m.modules() if c is not m}
    return [m for m in named if id(m) not in inside]
