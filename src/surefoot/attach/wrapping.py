"""A function of torch's replaced by one that calls it, in a way that can be undone."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

# Wrappers that are to go, but on which another one stood when they were undone.
_GONE: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def wrap(
    owner: Any, name: str, make: Callable[[Any], Any]
) -> tuple[Callable[..., Any], Callable[[], None]]:
    """Put `make(original)` in the place of an attribute; (what stands there now, how to undo it).

    Whoever patched after us holds our wrapper: then undoing leaves it there, and it has to be a
    mere pass-through by itself. It goes with the last of ours that stands on it, or each of two
    watches that overlap would leave one behind, until a call went through too many of them.

    >>> class Owner:
    ...     def name(self): return "own"
    >>> _, restore = wrap(Owner, "name", lambda original: lambda self: original(self).upper())
    >>> Owner().name()
    'OWN'
    >>> _, second = wrap(Owner, "name", lambda original: lambda self: original(self) + "!")
    >>> restore()
    >>> second()
    >>> Owner().name()
    'own'
    """
    original = getattr(owner, name)
    wrapper = functools.wraps(original)(make(original))
    setattr(owner, name, wrapper)

    def restore() -> None:
        _GONE.add(wrapper)
        while (now := getattr(owner, name)) in _GONE:
            setattr(owner, name, now.__wrapped__)

    return wrapper, restore
