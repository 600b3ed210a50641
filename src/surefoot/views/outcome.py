"""What became of a run, in a sentence, from nothing but its recorded loss."""

from __future__ import annotations

import numpy as np

from surefoot.record.data import RunData
from surefoot.views.words import number

_ENDING = 10  # the loss at the end is the median of up to this many last values


def outcome(data: RunData) -> str:
    """How far the loss came between the first and the last recorded steps.

    It states what was measured and leaves the judgement to the findings.
    """
    series = data.series.get("loss")
    loss = np.empty(0) if series is None else series.last[:, 0].astype(np.float64)
    finite = np.flatnonzero(np.isfinite(loss))
    if series is None or not loss.size:
        return "The loss was not seen."
    if not finite.size:
        return "The loss was not a finite number at any step."
    first = f"{number(loss[finite[0]])} at step {int(series.steps[finite[0]]):,}"
    if finite[-1] != len(loss) - 1:
        lost = int(series.steps[finite[-1] + 1])
        return f"The loss was {first}; from step {lost:,} on it was no finite number any more."
    if finite.size == 1:
        return f"The loss was {first}; with one step there is nothing to compare it with."
    end = float(np.median(loss[finite[-_ENDING:]])) if finite.size > 2 * _ENDING else loss[-1]
    change = _change(float(loss[finite[0]]), float(end))
    return f"The loss went from {first} to {number(end)} at the end: {change}"


def _change(start: float, end: float) -> str:
    if abs(start - end) <= 0.02 * max(abs(start), abs(end)):
        return "hardly any change."
    if start <= 0 or end < 0:
        return "lower than at the start." if end < start else "higher than at the start."
    if end > 1.02 * start:
        return f"{number(end / start)} times as high as at the start."
    return f"{number(100 * (1 - end / start))} % lower than at the start."
