"""The gate: at every step, for every parameter on its own, is this gradient out of line?

Per layer and never on the global norm alone, which missed 100 of 100 spikes of x1000 in small
layers. The baseline is the median and the MAD of the log norm over the
last 64 steps; what trips the gate does not enter it, so that a spike cannot hide the next one, but
a level that lasts is accepted after 16 steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_WINDOW = 64
_WARM_UP = 16
_REFRESH = 8  # steps between two computations of the baseline
_FLOOR = 0.1  # added to the MAD in quadrature, on the natural-log scale (docs/thresholds.md)
_CRITICAL_Z = 6.0  # null: at most 4.0 in 7200 healthy points; here per layer, so higher
_LEAST_FACTOR = 8.0  # a smaller jump is not worth a word, however quiet the layer was before
_ACCEPT_AFTER = 16
_STATE = ("_ring", "_fresh", "_limit", "_median", "_scale", "_over")


class Gate:
    """Decides in a few microseconds; holds `P * 64 * 4` bytes and a few rows more.

    calm: at the step checked last every parameter had a gradient, and none was out of line.
    """

    def __init__(self, parameters: int) -> None:
        self._ring = np.full((_WINDOW, parameters), np.nan, np.float32)  # of log norms
        self._fresh = np.full((_REFRESH, parameters), np.nan)  # norms since the last refresh
        self._rows = 0
        self._limit = np.full(parameters, np.inf)
        self._median = np.full(parameters, np.nan)
        self._scale = np.full(parameters, np.nan)
        self._over = np.zeros(parameters, np.int32)  # steps in a row above the limit
        self._quiet = np.zeros(parameters, bool)
        self._last = self._limit
        self.calm = False

    def check(self, norms: np.ndarray, nonfinite: np.ndarray) -> np.ndarray | None:
        """Indices of the parameters [P] that trip, or None; `norms`, `nonfinite` are this step's.

        A NaN norm means no gradient and never trips; a non-finite count above zero always does.
        """
        self._last = norms
        quiet = np.less_equal(norms, self._limit, out=self._quiet)  # False for NaN
        self.calm = np.count_nonzero(quiet) == len(quiet) and not np.count_nonzero(nonfinite)
        if self.calm:
            self._over.fill(0)
            self._enter(norms)
            return None
        bad, high = nonfinite > 0, norms > self._limit
        if not (np.count_nonzero(high) or np.count_nonzero(bad)):  # some have no gradient
            self._over.fill(0)
            self._enter(norms)
            return None
        high &= ~bad  # what is not finite is no level that could last
        self._over[~high] = 0
        self._over[high] += 1
        out = (high & (self._over <= _ACCEPT_AFTER)) | bad
        self._enter(np.where(out, np.nan, norms))
        tripped = np.flatnonzero(out)
        return tripped if tripped.size else None

    def scores(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(z, factor over the median) of the step checked last, for some parameters."""
        excess = _log(self._last[indices]) - self._median[indices]
        return excess / self._scale[indices], np.exp(np.clip(excess, -80, 80))

    def usual(self, indices: np.ndarray) -> np.ndarray:
        """The median norm of some parameters over the window; NaN before there is one."""
        return np.exp(self._median[indices])

    def limit(self, index: int) -> float:
        """The norm above which this parameter trips; infinite before there is a baseline."""
        return float(self._limit[index])

    def state(self) -> dict[str, np.ndarray]:
        """Copies of what `load` needs to go on."""
        kept = {name: getattr(self, name).copy() for name in _STATE}
        return {**kept, "_rows": np.array(self._rows)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state`; raises ValueError if it is of another number of parameters."""
        if state["_over"].shape != self._over.shape:
            raise ValueError(
                f"expected a baseline of {len(self._over)} columns, got {len(state['_over'])}: "
                "it was saved for another list of parameters"
            )
        rows = int(state["_rows"])
        for name in _STATE:
            getattr(self, name)[...] = state[name]
        self._rows = rows

    def _enter(self, norms: np.ndarray) -> None:
        self._fresh[self._rows % _REFRESH] = norms
        self._rows += 1
        if self._rows % _REFRESH == 0:
            self._take_in()

    def _take_in(self) -> None:
        start = (self._rows - _REFRESH) % _WINDOW
        self._ring[start : start + _REFRESH] = _log(self._fresh)
        if self._rows >= _WARM_UP:
            self._refresh()

    def _refresh(self) -> None:
        rows = self._ring[: min(self._rows, _WINDOW)]
        known = np.isfinite(rows).all(0)
        if known.all():
            median = _median(rows)
            mad = _median(np.abs(rows - median))
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
        with np.errstate(over="ignore"):
            self._limit[known] = np.exp(median.astype(np.float64) + jump)


def _median(rows: np.ndarray) -> np.ndarray:
    """Of each column. numpy.median takes three to eight times as long: it selects, this sorts, and
    sorting is vectorised."""
    ordered, middle = np.sort(rows, axis=0), len(rows) // 2
    return ordered[middle] if len(rows) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _log(norms: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(norms)
