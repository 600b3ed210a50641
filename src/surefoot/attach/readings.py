"""What is known of the step under way of an optimizer: measured once for all who act on it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


class Reading:
    """The step under way of one optimizer.

    rows: [P, 5] as `kernels.Pass` fills them, unscaled, in the order of the optimizer's parameters;
    None as long as nobody has measured them. They are a view of a buffer: read them at once.
    loss: of the step, None where nobody has read it; scale: GradScaler's factor, None without.
    held: whether the step is held back, as told by who does so; refused: called when GradScaler has
    not let the optimizer step at all.
    """

    __slots__ = ("held", "loss", "refused", "rows", "scale")

    def __init__(self) -> None:
        self.rows: np.ndarray | None = None
        self.loss: float | None = None
        self.scale: float | None = None
        self.held = False
        self.refused: Callable[[], None] | None = None

    def take(self) -> np.ndarray | None:
        """The rows, which are gone after that: a second look in one step is another gradient's."""
        rows, self.rows = self.rows, None
        return rows


_WANTED: weakref.WeakKeyDictionary[Any, Reading] = weakref.WeakKeyDictionary()


def want(optimizer: Any) -> Reading:
    """The reading of an optimizer, from now on filled by whoever measures its gradients."""
    return _WANTED.setdefault(optimizer, Reading())


def offer(optimizer: Any, rows: np.ndarray, loss: float | None, scale: float | None) -> None:
    """Hand what was measured to those who asked for it."""
    if _WANTED and (reading := _WANTED.get(optimizer)) is not None:
        reading.rows, reading.loss, reading.scale, reading.held = rows, loss, scale, False


def held(optimizer: Any) -> bool:
    """Whether the step under way is held back by a guard."""
    return bool(_WANTED) and (reading := _WANTED.get(optimizer)) is not None and reading.held


def refuse(optimizer: Any) -> None:
    """GradScaler has not let the optimizer step: tell who acts on its steps."""
    if _WANTED and (reading := _WANTED.get(optimizer)) is not None and reading.refused is not None:
        reading.refused()
