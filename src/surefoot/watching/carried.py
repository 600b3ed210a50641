"""Gradients that are carried from one step into the next because nobody zeroed them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch

from surefoot.kernels.pieces import piece

_PATIENCE = 8  # steps of other optimizers, after which another parameter is followed


class Carried:
    """Follows one gradient tensor by its version counter, at about a microsecond a call.

    After a step it notes the version; whatever but backward touches the tensor afterwards
    (`zero_grad`, in place or by setting it to None) has zeroed it. Values are never read.
    """

    def __init__(self) -> None:
        self.followed = 0  # steps for which this can tell
        self.steps = 0  # those that used gradients of the step before as well
        self.first = 0  # the first of them
        self.since = 0  # those for which this can tell, from the first of them on
        self.backwards = 0
        self._others = 0  # steps of other optimizers since then
        self._chosen = 0  # the parameter whose gradient is followed
        self._before = 0  # backward calls up to the last step
        self._following = False  # since the last step, whatever became of it
        self._of: weakref.ref[torch.Tensor] | None = None
        self._version: tuple[int, int] | None = None

    @property
    def following(self) -> bool:
        """Whether the step that will tell is yet to come."""
        return self._following

    def before_backward(self) -> None:
        """Forget the gradient if anything has been done to it since it was last seen."""
        self.backwards += 1
        if self._of is not None and self._look() != self._version:
            self._of = None

    def after_backward(self) -> None:
        """Backward may add to the gradient: that is not what zeroes it."""
        if self._of is not None:
            self._version = self._look()

    def at_step(self, step: int, places: np.ndarray) -> None:
        """Count the step if its gradients still hold those of the step before.

        places: of the parameters that take it; a step of others is none of the followed one's.
        """
        own = not self._following or self._chosen in places
        if not own and self._others < _PATIENCE:
            self._others += 1
            return
        self._others = 0
        if own and self._following and self._before < self.backwards:
            self.followed += 1
            if self._of is not None and self._in_place():
                self.first = self.first if self.steps else step
                self.steps += 1
            self.since += self.steps > 0
        self._of, self._following = None, False
        self._before = self.backwards

    def follow_one(
        self, norms: np.ndarray, parameters: Sequence[weakref.ref[torch.Tensor]]
    ) -> None:
        """Follow one whose gradient is not zero: backward finds it again unless it is zeroed."""
        if len(norms) and not norms[self._chosen] > 0:
            self._chosen = int(np.argmax(np.where(norms == norms, norms, -1.0)))
        if len(norms) and norms[self._chosen] > 0:
            self.follow(parameters[self._chosen])

    def follow(self, parameter: weakref.ref[torch.Tensor]) -> None:
        """Note the gradient of a parameter that was just used and is not zero."""
        self._of = parameter
        self._version = self._look()
        self._following = self._version is not None
        if not self._following:
            self._of = None

    def _in_place(self) -> bool:
        """Whether no other gradient was set by hand since the last backward."""
        now = self._look()
        return now is not None and self._version is not None and now[1] == self._version[1]

    def _look(self) -> tuple[int, int] | None:
        parameter = self._of() if self._of is not None else None
        gradient = piece(parameter.grad) if parameter is not None else None
        if gradient is None or gradient.layout is not torch.strided:
            return None
        return gradient._version, gradient.data_ptr()
