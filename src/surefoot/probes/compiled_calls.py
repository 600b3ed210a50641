"""Where a compiled module is entered: outside of its graph, where a hook is seen by nobody.

`torch.compile(module)` gives a module of its own, whose hooks run before and after the graph;
`module.compile()` leaves a function behind that is called in place of the module's own call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from surefoot.compiler import outside, pass_over
from surefoot.probes.module_hooks import Placed, place

_CALL = "_compiled_call_impl"
_compiling = torch.compiler.is_compiling
Before = Callable[[nn.Module, Any, Any], None]
After = Callable[[nn.Module, Any, Any], None]


def compiled_in_place(module: nn.Module) -> bool:
    """Whether calls of the module run a graph because of `module.compile()`."""
    return module.__dict__.get(_CALL) is not None


class Door:
    """Tells of the calls of a compiled module as hooks on the module itself would.

    form: what `torch.compile(module)` gave, or the module if it was compiled in place.
    """

    def __init__(self, module: nn.Module, form: nn.Module, before: Before, after: After) -> None:
        self._module, self._form = weakref.ref(module), weakref.ref(form)
        self._hooks: Placed | None = None
        self._original: Any = None
        self._instead: Any = None
        if form is module:
            self._step_between(module, before, after)
        else:
            self._hook(form, before, after)

    def _hook(self, form: nn.Module, before: Before, after: After) -> None:
        held = self._module

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            before(held(), args, kwargs)  # type: ignore[arg-type]

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            after(held(), args, output)  # type: ignore[arg-type]

        self._hooks = place(form, enter, leave, lasting=True, always_call=True)

    def _step_between(self, module: nn.Module, before: Before, after: After) -> None:
        original, held = module.__dict__[_CALL], self._module

        def call(*args: Any, **kwargs: Any) -> Any:
            if _compiling():  # within another graph
                return original(*args, **kwargs)
            outside(before, held(), args, kwargs)
            output = None
            try:
                output = original(*args, **kwargs)
            finally:
                outside(after, held(), args, output)
            return output

        pass_over(call, outside)
        self._original, self._instead = original, call
        module.__dict__[_CALL] = call

    @property
    def gone(self) -> bool:
        """Whether there is no such form any more."""
        return self._form() is None

    def remove(self) -> None:
        """Have it as it was; idempotent."""
        if self._hooks is not None:
            self._hooks.remove()
        module = self._module()
        instead = self._instead
        if module is not None and instead is not None and module.__dict__.get(_CALL) is instead:
            module.__dict__[_CALL] = self._original
        self._hooks = self._original = self._instead = None
