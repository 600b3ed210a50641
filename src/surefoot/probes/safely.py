"""Hooks fit for a stranger's model: they never fail in its forward, and no copy inherits them."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol

_LOG = logging.getLogger("surefoot")
_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()  # parts whose failure was said


class OfSurefoot:
    """Anything callable that hangs on a module of the user's, known by its mark to whoever copies
    the module."""

    __slots__ = ()
    of_surefoot = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook(_nothing)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_nothing,)


class Hook(OfSurefoot, functools.partial[None]):
    """A function and its first arguments as such a hook."""


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


def in_words(error: BaseException) -> str:
    """The kind of an error and the first line of what it says.

    >>> in_words(ValueError("wrong\\nvery wrong"))
    'ValueError: wrong'
    """
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def failed(part: Hooked | None) -> bool:
    """Whether something failed inside a hook of this part, which is left out from then on. Said
    once; the watching goes on without it."""
    if part is None or part.failure is None:
        return False
    if part not in _TOLD:
        _TOLD.add(part)
        words = type(part).__name__, in_words(part.failure)
        _LOG.warning("surefoot goes on without its %s, which failed: %s", *words)
        _LOG.debug("where it failed", exc_info=part.failure)
        # Its frames hold what passed through them: inputs, modules, whole graphs.
        part.failure.__traceback__ = part.failure.__context__ = part.failure.__cause__ = None
    return True


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
