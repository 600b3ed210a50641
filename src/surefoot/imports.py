"""To be told when a module has been imported by somebody else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class _ImportWatch(MetaPathFinder):
    """Calls back once, after a module has been imported; the import itself stays as it was."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action
        self._done = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Let the other finders find the module, and listen on the loader they chose."""
        if fullname != self._name or self._done:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                self._listen(spec.loader)
                return spec
        return None

    def _listen(self, loader: Any) -> None:
        # On this one loader object and not around it: whoever looks at the module's loader
        # (inspect, pkgutil, importlib.resources) finds the class that he expects.
        def exec_module(module: Any) -> None:
            del loader.exec_module
            loader.exec_module(module)
            if not self._done:
                self._done = True
                self.remove()
                self._action()

        with suppress(AttributeError):  # a loader without room: the report says so
            loader.exec_module = exec_module

    def remove(self) -> None:
        """Take this finder out of the import system; a second time does nothing."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


@contextmanager
def when_imported(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` as soon as the top-level module `name` is imported; at once if it is.

    >>> import sys
    >>> _ = sys.modules.pop("antigravity", None)
    >>> with when_imported("wave", lambda: print("heard")):
    ...     import wave
    heard
    """
    if name in sys.modules:
        action()
        yield
        return
    watch = _ImportWatch(name, action)
    sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        watch.remove()
