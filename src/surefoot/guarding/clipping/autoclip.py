"""AutoClip (Seetharaman, Wichern, Pardo & Le Roux 2020): a percentile of the norms seen so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from surefoot.guarding.clipping.cut import Cut, Gradients
from surefoot.guarding.clipping.norm import EPSILON
from surefoot.guarding.form import each, keys, whole

_PER_OCTAVE = 64  # counts an octave: a percentile is known to 1.1 %
_FORM = keys(counts=each(each(whole, 2)))


class AutoClip:
    """Clip by the `percentile` of all norms so far, this step's included (the paper's is 10).

    The paper keeps every norm of the run. Here they are counted on a logarithmic scale, in 64 steps
    an octave, which takes the same memory after a million steps and is exact to 1.1 %.
    """

    name: ClassVar[str] = "autoclip"

    def __init__(self, percentile: float = 10.0) -> None:
        if not (isinstance(percentile, (int, float)) and 0 < percentile <= 100):
            raise ValueError(
                f"expected percentile between 0 and 100, got {percentile!r}: the paper's is 10"
            )
        self.percentile = float(percentile)
        self._counts: dict[int, int] = {}

    def cut(self, gradients: Gradients) -> Cut:
        """Of all gradients, by one divisor."""
        norm = gradients.norm
        if norm > 0.0:
            place = math.floor(math.log2(norm) * _PER_OCTAVE)
            self._counts[place] = self._counts.get(place, 0) + 1
        limit = self.limit
        return Cut(max(1.0, (norm + EPSILON) / limit)) if limit > 0.0 else Cut()

    @property
    def limit(self) -> float:
        """The percentile of what was seen, 0 before anything was."""
        if not self._counts:
            return 0.0
        places = np.array(sorted(self._counts))
        counts = np.cumsum([self._counts[place] for place in places.tolist()])
        rank = self.percentile / 100 * (counts[-1] - 1)  # as numpy.percentile counts
        place = places[np.searchsorted(counts - 1, rank)]
        return float(2.0 ** ((place + 0.5) / _PER_OCTAVE))

    def state_dict(self) -> dict[str, Any]:
        """How many norms fell where."""
        return {"counts": sorted(self._counts.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError, and stays as it is, if it is none."""
        _FORM(state, "")
        self._counts = {int(place): int(count) for place, count in state["counts"]}
