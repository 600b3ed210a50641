"""Steps that GradScaler refused, because a scaled gradient was not finite."""

from __future__ import annotations

import math
from typing import Any

_IN_A_ROW = 4  # refusals after which it is looked at who makes the value that is not finite
_LOOKS = 3  # such looks in one run, a replay with a search each
_SETTLES = 16  # halvings from the usual 2^16 down to one


class Scaling:
    """Counts refusals and decides which of them are worth a replay.

    A scale that starts too high is halved a few times and settles: that is how it is meant. What
    the scale has no part in is another matter: a loss that is itself not finite, or a refusal at a
    scale of one or less, where the gradient is no larger than the true one.
    """

    def __init__(self) -> None:
        self.now = False  # the step under way is refused
        self.scale: float | None = None
        self._row = 0
        self._looks = 0

    def begin(self, refused: bool) -> None:
        """A step begins, which the scaler has let through or not."""
        self.now = refused
        self._row = self._row + 1 if refused else 0

    def held_back(self, optimizer: Any) -> bool:
        """Whether a fused optimizer will hold this step back; only asked of non-finite ones."""
        found = getattr(optimizer, "found_inf", None)
        if found is not None and not self.now and float(found) > 0:
            self.begin(True)
        return self.now

    def worth_a_look(self, loss: float | None) -> bool:
        """Whether to search this refused step for the operation that made the first such value."""
        lost = loss is not None and not math.isfinite(loss)
        bare = self.scale is not None and self.scale <= 1 and self._row > 1
        due = self._looks < _LOOKS and (lost or bare or self._row == _IN_A_ROW)
        self._looks += due
        return due

    @property
    def passing(self) -> bool:
        """Whether this step was refused as steps are while the scale still settles: look again."""
        return self.now and self._row <= _SETTLES
