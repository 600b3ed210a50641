"""Autocast as it stood at some call, for every type of device in use, to be entered again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

try:  # one question for all types of devices
    any_autocast = torch._C._is_any_autocast_enabled
except AttributeError:  # a torch that does not offer it

    def any_autocast() -> bool:
        """Whether autocast is on for any of the usual types of devices."""
        return any(map(torch.is_autocast_enabled, ("cpu", "cuda", "mps", "xpu")))


_enabled, _dtype = torch.is_autocast_enabled, torch.get_autocast_dtype


@dataclass(frozen=True, slots=True)
class Casting:
    """(type of device, whether it casts, to which dtype) of each; cached: whether a weight that
    was cast is kept until the outermost context ends."""

    types: tuple[tuple[str, bool, torch.dtype], ...]
    cached: bool

    @staticmethod
    def now(types: Sequence[str], usual: Casting | None = None) -> Casting:
        """As it stands on this thread, for these types of devices; `usual` itself if that is it."""
        each = tuple([(t, _enabled(t), _dtype(t)) for t in types])
        cached = torch.is_autocast_cache_enabled()
        if usual is not None and each == usual.types and cached == usual.cached:
            return usual
        return Casting(each, cached)

    def none(self) -> Casting:
        """The same with all of it off."""
        return Casting(tuple((t, False, dtype) for t, _, dtype in self.types), self.cached)

    @property
    def on(self) -> bool:
        """Whether anything is cast."""
        return any(enabled for _, enabled, _ in self.types)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Cast as then; what is on at present is on again afterwards."""
        before = Casting.now([t for t, _, _ in self.types])
        self._set()
        try:
            with one_cache():
                yield
        finally:
            before._set()

    def _set(self) -> None:
        # Not `torch.autocast`, which speaks up about a type of device that this machine lacks.
        for kind, enabled, dtype in self.types:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self.cached)


@contextlib.contextmanager
def one_cache() -> Iterator[None]:
    """Weights that are cast inside are cast once: contexts in here count as nested."""
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
