"""The gate: at every step, for every parameter on its own, is this gradient out of line?

Per layer and never on the global norm alone, which missed 100 of 100 spikes of x1000 in small
layers (PERFORMANCE.md section 2). The baseline is the median and the MAD of the log norm over the
last 64 steps; what trips the gate does not enter it, so that a spike cannot hide the next one, but
a level that lasts is accepted after 16 steps.
"""

from __future__ import annotations

import numpy as np

_WINDOW = 64
_WARM_UP = 16
_REFRESH = 8  # steps between two computations of the baseline
_FLOOR = 0.1  # added to the MAD in quadrature, on the natural-log scale (SCIENCE.md section 8)
_CRITICAL_Z = 6.0  # null: at most 4.0 in 7200 healthy points; here per layer, so higher
_LEAST_FACTOR = 8.0  # a smaller jump is not worth a word, however quiet the layer was before
_ACCEPT_AFTER = 16


class Gate:
    """Decides in a few microseconds; holds `P * 64 * 4` bytes."""

    def __init__(self, parameters: int) -> None:
        self._ring = np.full((_WINDOW, parameters), np.nan, np.float32)
        self._rows = 0
        self._limit = np.full(parameters, np.inf)
        self._median = np.full(parameters, np.nan)
        self._scale = np.full(parameters, np.nan)
        self._over = np.zeros(parameters, np.int32)  # steps in a row above the limit
        self._log = np.empty(parameters)

    def check(self, norms: np.ndarray, nonfinite: np.ndarray) -> np.ndarray | None:
        """Indices of the parameters [P] that trip, or None; `norms`, `nonfinite` are this step's.

        A NaN norm means no gradient and never trips; a non-finite count above zero always does.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(norms, out=self._log)
        bad = nonfinite > 0
        high = log > self._limit
        if not (high.any() or bad.any()):
            self._over.fill(0)
            self._enter(log)
            return None
        high &= ~bad  # what is not finite is no level that could last
        self._over[~high] = 0
        self._over[high] += 1
        accepted = self._over > _ACCEPT_AFTER
        row = np.where((high & ~accepted) | bad, np.nan, log)
        self._enter(row)
        tripped = np.flatnonzero((high & ~accepted) | bad)
        return tripped if tripped.size else None

    def scores(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(z, factor over the median) of the last checked step for some parameters."""
        excess = self._log[indices] - self._median[indices]
        return excess / self._scale[indices], np.exp(np.clip(excess, -80, 80))

    def _enter(self, log: np.ndarray) -> None:
        self._ring[self._rows % _WINDOW] = log
        self._rows += 1
        if self._rows >= _WARM_UP and self._rows % _REFRESH == 0:
            self._refresh()

    def _refresh(self) -> None:
        rows = self._ring[: min(self._rows, _WINDOW)]
        known = np.isfinite(rows).all(0)
        if known.all():
            median = np.median(rows, axis=0)
            mad = np.median(np.abs(rows - median), axis=0)
        else:
            # A layer without a gradient at times: the slow way, for the measured steps only.
            rows = np.where(np.isfinite(rows), rows, np.nan)
            known = np.isfinite(rows).sum(0) >= _WARM_UP
            if not known.any():
                return
            rows = rows[:, known]
            median = np.nanmedian(rows, axis=0)
            mad = np.nanmedian(np.abs(rows - median), axis=0)
        self._median[known] = median
        self._scale[known] = np.sqrt((1.4826 * mad) ** 2 + _FLOOR**2)
        jump = np.maximum(_CRITICAL_Z * self._scale[known], np.log(_LEAST_FACTOR))
        self._limit[known] = median + jump
