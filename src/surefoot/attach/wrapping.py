"""A function of torch's replaced by one that calls it, in a way that can be undone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap(
    owner: Any, name: str, make: Callable[[Any], Any]
) -> tuple[Callable[..., Any], Callable[[], None]]:
    """Put `make(original)` in the place of an attribute; (what stands there now, how to undo it).

    Whoever patched after us holds our wrapper: then undoing leaves it there, and it has to be a
    mere pass-through by itself.

    >>> class Owner:
    ...     def name(self): return "own"
    >>> _, restore = wrap(Owner, "name", lambda original: lambda self: original(self).upper())
    >>> Owner().name()
    'OWN'
    >>> restore()
    >>> Owner().name()
    'own'
    """
    original = getattr(owner, name)
    wrapper = functools.wraps(original)(make(original))
    setattr(owner, name, wrapper)

    def restore() -> None:
        if getattr(owner, name) is wrapper:
            setattr(owner, name, original)

    return wrapper, restore
