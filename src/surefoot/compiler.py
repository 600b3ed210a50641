"""torch's compiler, as far as one who listens to a training must know of it.

Within a compiled call the compiler (Dynamo) looks at every frame of Python, not only at the
script's. What it inlines becomes a part of the graph, breaks it, or is guarded on; what it meets as
a frame of its own it compiles. A listener must be neither: it is run `outside`, as plain Python.

Nothing here imports the compiler, which takes a second: torch does so when an optimizer is made.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any

import torch

_NAME = "torch._dynamo"

_ask = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", None)


def _without_taking(ask: Any) -> Callable[[], Any]:
    """None or something, as `ask` would say.

    PyTorch 2.6 and 2.7 hand out what they do not own: each question takes away a reference, until
    None or the compiler's own callback is freed under those who use it. Its C function is called
    for the bare address here, by nothing but C, so that there is no frame to look at.
    """
    pointer, known = ctypes.c_void_p, ("PyCFunction_GetFunction", ctypes.pythonapi)
    find = ctypes.PYFUNCTYPE(pointer, ctypes.py_object)(known)
    call = ctypes.PYFUNCTYPE(pointer, pointer, pointer)(find(ask))
    addresses = iter(partial(call, None, None), -1)
    return map({id(None): None}.get, addresses, repeat(True)).__next__


if _ask is not None and torch.__version__ < "2.8":
    _ask = _without_taking(_ask)
# What looks at each frame of this thread: None outside of compiled calls, and where torch does not
# tell. It has no frame itself.
onlooker: Callable[[], Any] = _ask or (lambda: None)


def compiler() -> Any:
    """The compiler if it has been imported, None otherwise."""
    module = sys.modules.get(_NAME)
    return module if hasattr(module, "disable") else None  # and not half-way through its import


def outside(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function out of the compiler's sight, with all that it calls.

    Where it is inlined into a graph, the graph breaks here.
    """
    if _unseen is None or (_ask is not None and _ask() is None):  # nobody looks
        return function(*args, **kwargs)
    return _unseen(function, *args, **kwargs)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


_unseen: Callable[..., Any] | None = None  # `_call`, once there is a compiler


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one that is always called `outside`; as it is while there is no compiler."""
    dynamo = compiler()
    return function if dynamo is None else dynamo.disable(function)


def pass_over(*functions: Callable[..., Any]) -> bool:
    """Have the compiler run frames of these functions as they are; what they call it looks at as
    it would. False while no compiler is there."""
    global _unseen
    if (dynamo := compiler()) is None:
        return False
    _unseen = _unseen or dynamo.disable(_call)
    skip_code = getattr(dynamo.decorators, "skip_code", None)
    for function in functions if skip_code is not None else ():
        skip_code(function.__code__)  # type: ignore[attr-defined]
    return True


def leave_alone(*functions: Callable[..., Any]) -> bool:
    """As `pass_over`; and where one of them is met inside of a graph, the graph breaks there."""
    there = pass_over(outside, *functions)
    for function in functions if there else ():
        function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return there


def eagerly() -> contextlib.AbstractContextManager[Any]:
    """A context in which whatever the script has compiled runs as it was written."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if compiler() is None or set_stance is None:
        return contextlib.nullcontext()
    return set_stance("force_eager")


def has_compiled() -> bool:
    """Whether it has compiled anything in this process so far."""
    frames = getattr(compiler(), "convert_frame", None)
    return bool(getattr(getattr(frames, "input_codes", None), "seen", ()))


def guards_on_hooks() -> bool:
    """Whether compiled code notices a hook that comes to a module which had none (it does not by
    default)."""
    dynamo = compiler()
    return dynamo is not None and not getattr(dynamo.config, "skip_nnmodule_hook_guards", True)
