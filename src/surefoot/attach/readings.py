"""Statistics of the gradients that a step is about to use, measured once for all who act on it."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np


class Reading:
    """The step under way of one optimizer.

    rows: [P, 5] as `kernels.Pass` fills them, unscaled, in the order of the optimizer's parameters;
    None as long as nobody has measured them. They are a view of a buffer: read them at once.
    """

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: np.ndarray | None = None

    def take(self) -> np.ndarray | None:
        """The rows, which are gone after that: a second look in one step is another gradient's."""
        rows, self.rows = self.rows, None
        return rows


_WANTED: weakref.WeakKeyDictionary[Any, Reading] = weakref.WeakKeyDictionary()


def want(optimizer: Any) -> Reading:
    """The reading of an optimizer, from now on filled by whoever measures its gradients."""
    return _WANTED.setdefault(optimizer, Reading())


def offer(optimizer: Any, rows: np.ndarray) -> None:
    """Hand what was measured to those who asked for it."""
    if _WANTED and (reading := _WANTED.get(optimizer)) is not None:
        reading.rows = rows
