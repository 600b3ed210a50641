"""Hooks fit for a stranger's model: they never fail in its forward, and no copy inherits them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol


class Hook(functools.partial[None]):
    """A hook on a module of the user's, known by its mark to whoever copies the module."""

    of_surefoot = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook(_nothing)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_nothing,)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What is left of a hook in a copy made by other means than the module's own state."""


class Hooked(Protocol):
    """An owner of hooks. failure: the first exception that one of them raised."""

    failure: Exception | None

    def remove(self) -> None:
        """Take the hooks away."""


def raise_failure(part: Hooked | None) -> None:
    """Raise what failed inside a hook, from where the session catches and tells it."""
    if part is not None and part.failure is not None:
        raise part.failure


def safely(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that never raises: its owner keeps the failure and takes its hooks away.

    >>> class Owner:
    ...     failure = None
    ...     def remove(self): print("hooks removed")
    ...     @safely
    ...     def hook(self, module): raise ValueError("not seen by the training")
    >>> owner = Owner()
    >>> owner.hook(None)
    hooks removed
    >>> owner.failure
    ValueError('not seen by the training')
    """

    @functools.wraps(hook)
    def guarded(owner: Hooked, *args: Any, **kwargs: Any) -> None:
        if owner.failure is not None:
            return
        try:
            hook(owner, *args, **kwargs)
        except Exception as error:
            owner.failure = error
            owner.remove()

    return guarded
