"""Hooks on modules that the compiler never sees: they are away while anything is being compiled.

Compiled code guards on the hooks that it met: on their number, and on whatever they read. Ours come
and go, so every sampled step would be compiled anew, and none would share the code of its twin. A
module without hooks it does not guard on (unless `skip_nnmodule_hook_guards` is off): taken away
while it traces, ours are neither in the graph nor missed by it, and eager modules keep them.

What that cannot do: where a module has hooks of the script's as well, or where the guards are on,
hooks that come and go are given up at the first compilation, and those that last stay in sight.
They return at once while being traced, so that nothing of them is in the graph.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from surefoot.compiler import compiler, guards_on_hooks, has_compiled, outside, pass_over
from surefoot.probes.safely import OfSurefoot

_TABLES = ("_forward_pre_hooks", "_forward_hooks")
# Where torch notes how a hook is called; these are guarded on as well.
_NOTES = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_compiling = torch.compiler.is_compiling
_transformed = torch._C._functorch.maybe_current_level  # inside torch.func's transforms


class Placed:
    """A forward pre-hook and a forward hook on one module, made by `place`."""

    __slots__ = ("__weakref__", "_away", "_handles", "_lasting", "_module")

    def __init__(self, module: nn.Module, handles: list[Any], lasting: bool) -> None:
        self._module = weakref.ref(module)
        self._handles = handles
        self._lasting = lasting
        self._away: list[tuple[dict[int, Any], int, Any]] = []

    def remove(self) -> None:
        """Take them away for good; idempotent."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
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
            table = module.__dict__[name]
            mine = [h.id for h in self._handles if h.id in table]
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
    handles = []
    if before is not None:
        handles.append(module.register_forward_pre_hook(_Unseen(before), with_kwargs=True))
    if after is not None:
        handles.append(module.register_forward_hook(_Unseen(after), **options))
    placed = Placed(module, handles, lasting)
    _placed.add(placed)
    return placed


class _Unseen(OfSurefoot):
    """A hook that is run out of the compiler's sight, and not at all in what it traces, nor within
    a transform of torch.func: what passes there is no value of this step's."""

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if not _compiling() and _transformed() is None:
            outside(self._hook, *args, **kwargs)


def _has_others(module: nn.Module) -> bool:
    """Whether a module has forward hooks that are not ours."""
    return any(
        not getattr(hook, "of_surefoot", False)
        for name in _TABLES
        for hook in module.__dict__[name].values()
    )


class Curtain:
    """Draws the hooks away for every compilation, while it hangs."""

    def __init__(self) -> None:
        self._handler: Any = None

    def hang(self) -> None:
        """Begin, as soon as there is a compiler; to be called again, as its reset forgets us."""
        if (dynamo := compiler()) is None:
            return
        handler = getattr(dynamo, "callback_handler", None)
        if handler is None or _draw in handler.start_callbacks:
            return
        pass_over(_Unseen.__call__, outside)
        handler.register_start_callback(_draw)
        handler.register_end_callback(_open)
        self._handler = handler

    def remove(self) -> None:
        """No more of it; idempotent."""
        handler, self._handler = self._handler, None
        if handler is None:
            return
        if _draw in handler.start_callbacks:
            handler.remove_start_callback(_draw)
        if _open in handler.end_callbacks:
            handler.remove_end_callback(_open)


def _draw(*args: Any) -> None:
    with contextlib.suppress(Exception):  # whatever happens, the compilation goes on
        for placed in list(_placed):
            placed.hide()


def _open(*args: Any) -> None:
    with contextlib.suppress(Exception):
        for placed in list(_placed):
            placed.show()
