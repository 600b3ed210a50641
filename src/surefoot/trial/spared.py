"""What a trial saves goes elsewhere, so that the checkpoints of the run stay as they are.

A program that loads, moves, copies or removes what it has saved finds it as it left it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


class Spared:
    """`torch.save` to a path writes into `folder` between `install` and `remove`.

    What a program writes into a file that it opened itself is written: it is already replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._saved = folder, 0
        self._kept: dict[str, str] = {}  # the path that was meant -> the file in its place
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """Stand between the program and the disk."""
        for owner, name in ((torch, "save"), (torch, "load"), (os, "stat")):
            self._patch(owner, name, getattr(self, f"_{name}"))
        for owner, name in ((os, "replace"), (os, "rename"), (shutil, "copyfile")):
            self._patch(owner, name, self._copy if name == "copyfile" else self._move)
        for name in ("remove", "unlink"):
            self._patch(os, name, self._drop)

    def remove(self) -> None:
        """Everything is written where it is meant to be."""
        while self._undo:
            self._undo.pop()()

    def _patch(self, owner: Any, name: str, action: Callable[..., Any]) -> None:
        was = getattr(owner, name)

        def stands_in(*args: Any, **kwargs: Any) -> Any:
            return action(was, *args, **kwargs)

        # Copied by hand, for `wraps` would have inspect follow it to the original.
        stands_in.__name__, stands_in.__doc__ = name, getattr(was, "__doc__", None)
        setattr(owner, name, stands_in)
        self._undo.append(lambda: setattr(owner, name, was))

    def _save(self, was: Any, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        name = _meant(f)
        if name is None:
            return was(obj, f, *args, **kwargs)
        return was(obj, self._place(name), *args, **kwargs)

    def _load(self, was: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        return was(self._kept.get(_meant(f) or "", f), *args, **kwargs)

    def _stat(self, was: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        return was(self._kept.get(_meant(path) or "", path), *args, **kwargs)

    def _move(self, was: Any, src: Any, dst: Any, *args: Any, **kwargs: Any) -> Any:
        place = self._kept.pop(_meant(src) or "", None)
        if place is None:
            return was(src, dst, *args, **kwargs)
        self._kept[_meant(dst) or ""] = place
        return None

    def _copy(self, was: Any, src: Any, dst: Any, *args: Any, **kwargs: Any) -> Any:
        place = self._kept.get(_meant(src) or "")
        if place is None:
            return was(src, dst, *args, **kwargs)
        was(place, self._place(_meant(dst) or ""))
        return dst

    def _drop(self, was: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        place = self._kept.pop(_meant(path) or "", None)
        return was(path, *args, **kwargs) if place is None else was(place)

    def _place(self, name: str) -> str:
        if name not in self._kept:
            self._saved += 1
            self._kept[name] = str(self._folder / f"saved-{self._saved}")
        return self._kept[name]


def _meant(file: Any) -> str | None:
    """The path in full; None for what is none."""
    if isinstance(file, (str, bytes, os.PathLike)):
        with suppress(OSError, TypeError, ValueError):
            return os.path.abspath(os.fsdecode(file))
    return None
