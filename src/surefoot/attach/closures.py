"""The closure that `optimizer.step` was given, and how to be told when it has run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def closure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
    """What `optimizer.step` was given to call, None without; `args` holds the optimizer first."""
    given = kwargs.get("closure")
    return given if given is not None else next((a for a in args[1:] if callable(a)), None)


def overheard(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    ran: Callable[[], None],
    begun: Callable[[], None] = lambda: None,
    raised: Callable[[], None] = lambda: None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with a closure that tells when it has run, while no weight has moved yet.

    Without a closure they are as they were. `begun` is called before it runs, and `raised` instead
    of `ran` if it raises.
    """
    closure = closure_of(args, kwargs)
    if closure is None:
        return args, kwargs

    @functools.wraps(closure, updated=("__dict__",) if hasattr(closure, "__dict__") else ())
    def heard(*args: Any, **kwargs: Any) -> Any:
        begun()
        try:
            result = closure(*args, **kwargs)
        except BaseException:
            raised()
            raise
        ran()
        return result

    args = tuple(heard if a is closure else a for a in args)
    return args, {k: heard if v is closure else v for k, v in kwargs.items()}
