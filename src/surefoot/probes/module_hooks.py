"""Hooks on modules that the compiler never sees: they are away while anything is being compiled.

Compiled code guards on the hooks that it met: on their number, and on whatever they read. Ours come
and go, so every sampled step would be compiled anew, and none would share the code of its twin. A
module without hooks it does not guard on (unless `skip_nnmodule_hook_guards` is off): taken away
while it traces, ours are neither in the graph nor missed by it, and eager modules keep them.

A module of torch's own that is called within a compiled call, but outside of its graphs, is only
compiled if it has a hook: there, ours give way for good.

What that cannot do: where a module has hooks of the script's as well, or where the guards are on,
hooks that come and go are given up at the first compilation, and those that last stay in sight.
They return at once while being traced, so that nothing of them is in the graph.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from surefoot.compiler import compiler, guards_on_hooks, has_compiled, onlooker, outside, pass_over
from surefoot.probes.safely import OfSurefoot

_TABLES = ("_forward_pre_hooks", "_forward_hooks")
# Where torch notes how a hook is called; these are guarded on as well.
_NOTES = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_OF_TORCH = ("torch.nn.", "torch.ao.")
_compiling = torch.compiler.is_compiling
_transformed = torch._C._functorch.maybe_current_level  # inside torch.func's transforms


class Placed:
    """A forward pre-hook and a forward hook on one module, made by `place`."""

    __slots__ = ("__weakref__", "_away", "_lasting", "_module", "handles")

    def __init__(self, module: nn.Module, lasting: bool) -> None:
        self._module = weakref.ref(module)
        self._lasting = lasting
        self.handles: list[Any] = []
        self._away: list[tuple[dict[int, Any], int, Any]] = []

    def remove(self) -> None:
        """Take them away for good; idempotent."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self._away.clear()

    def hide(self) -> None:
        """The compiler begins to trace."""
        module = self._module()
        if module is None or self._away:
            return
        if guards_on_hooks() or _has_others(module):
            if not self._lasting:
                self.remove()
            return
        for name in (*_TABLES, *_NOTES):
            table = module.__dict__.get(name, {})
            mine = [h.id for h in self.handles if h.id in table]
            self._away += [(table, number, table.pop(number)) for number in mine]

    def show(self) -> None:
        """It has ended."""
        for table, number, hook in self._away:
            table[number] = hook
        self._away.clear()


_placed: weakref.WeakSet[Placed] = weakref.WeakSet()


def place(
    module: nn.Module,
    before: Callable[..., Any] | None,
    after: Callable[..., Any] | None,
    *,
    lasting: bool = False,
    set_aside: bool = False,
    **options: Any,
) -> Placed | None:
    """Hook a module: `before(module, args, kwargs)`, `after(module, args, output)`.

    lasting: for as long as the training is watched; set_aside: on tables of hooks that stand in for
    the module's own. options: of `register_forward_hook`. None where compiled code would notice.
    """
    passing = not (lasting or set_aside)
    if passing and has_compiled() and (guards_on_hooks() or _has_others(module)):
        return None
    placed = Placed(module, lasting)
    _placed.add(placed)  # before its first hook: whatever fails from here on, it can be found
    pre_hook = _First(before, weakref.ref(placed))
    placed.handles.append(module.register_forward_pre_hook(pre_hook, with_kwargs=True))
    if after is not None:
        placed.handles.append(module.register_forward_hook(Unseen(after), **options))
    return placed


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Hooks that are placed meanwhile are taken away again if it fails."""
    before = weakref.WeakSet(_placed)
    try:
        yield
    except BaseException:
        for placed in [p for p in _placed if p not in before]:
            placed.remove()
        raise


class Unseen(OfSurefoot):
    """A hook, of a module or a tensor, that is run out of the compiler's sight, and not at all in
    what it traces (a backward, under Compiled Autograd), nor within a transform of torch.func: what
    passes there is no value of this step's."""

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> None:
        if _compiling() or _transformed() is not None:
            return
        if onlooker() is None:  # the usual case, made short
            self._hook(*args)
        else:
            outside(self._hook, *args)


class _First(OfSurefoot):
    """The pre-hook of a pair, which tells where the module is called from."""

    __slots__ = ("_hook", "_pair")

    def __init__(self, hook: Callable[..., Any] | None, pair: weakref.ref[Placed]) -> None:
        self._hook, self._pair = hook or _nothing, pair

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if _compiling() or _transformed() is not None:
            return
        if onlooker() is None:
            self._hook(module, args, kwargs)
        elif type(module).__module__.startswith(_OF_TORCH) and (pair := self._pair()) is not None:
            outside(pair.remove)
        else:
            outside(self._hook, module, args, kwargs)


def _nothing(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Of a pair that only has a hook after the call."""


def _has_others(module: nn.Module) -> bool:
    """Whether a module has forward hooks that are not ours."""
    return any(
        not getattr(hook, "of_surefoot", False)
        for name in _TABLES
        for hook in module.__dict__.get(name, {}).values()
    )


class Curtain:
    """Draws the hooks away for every compilation, while it hangs."""

    def __init__(self) -> None:
        self._handler: Any = None
        self._draw = self._open = _draw

    def hang(self) -> None:
        """Begin, as soon as there is a compiler; to be called again, as its reset forgets us."""
        if (dynamo := compiler()) is None:
            return
        if self._handler is None and (handler := getattr(dynamo, "callback_handler", None)):
            self._handler = handler
            # A backward is compiled when it runs: were these looked at as well, each would wait for
            # the other for ever.
            self._draw, self._open = dynamo.disable(_draw), dynamo.disable(_open)
            pass_over(Unseen.__call__, _First.__call__, outside)
        if self._handler is not None and self._draw not in self._handler.start_callbacks:
            self._handler.register_start_callback(self._draw)
            self._handler.register_end_callback(self._open)

    def remove(self) -> None:
        """No more of it; idempotent."""
        handler, self._handler = self._handler, None
        if handler is not None and self._draw in handler.start_callbacks:
            handler.remove_start_callback(self._draw)
        if handler is not None and self._open in handler.end_callbacks:
            handler.remove_end_callback(self._open)


def _draw(*args: Any) -> None:
    with contextlib.suppress(Exception):  # whatever happens, the compilation goes on
        for placed in list(_placed):
            placed.hide()


def _open(*args: Any) -> None:
    with contextlib.suppress(Exception):
        for placed in list(_placed):
            placed.show()
