"""The learning rate is too low: nothing is wrong but the pace.

**What.** The loss falls, if at all, far too slowly.

**Why.** The steps are a tiny fraction of the weights.

**Evidence.** The update-to-weight ratio as the optimizer really applied it stays under 3e-5 for the
whole run, the depth profile is in order, and the loss has gained next to nothing. A run that has
converged, or that is meant to be frozen, is no finding.

**Remedies.** Raise the learning rate until the ratio is near 1e-3; in a run of few steps higher, up
to 6e-2, so that they get somewhere: twice (`_RATHER`) what sound runs begin with.

**Thresholds.** A sound ratio is near 1e-3. At `_LOW` (3e-5) the weights turn over by 3 % in a
thousand steps; it has to hold of the largest step, and the loss must keep `_KEPT` (nine tenths) of
its first value. Or all steps together go less than `_WAY` (2 %) of the weights' size and less than
`_GAINED` (5 %) of the trivial predictor's loss is gone: a linear response to a move of 2 % cannot
be more. That counts at up to three times that pace (ten times in a run of `_LONG`, 100 steps, whose
own rate has not risen by `_RISES`, a tenth, since its middle: that one warms up, and while it runs
nothing is said of it), and for a pace of which less than `_FADED` (1 %) is left at the end: a
schedule that decays at once, or whose own rate is down to that before a `_QUARTER` of the run is
over; one that still warms up is not at its end. Of 83 healthy trainings none had a largest step
between 0 and 3e-4. Where any one matrix moves by `_SWIFT` (3 %) in a step, the rate is not what the
others lack. A run that had gained `_ONCE` (a tenth) and has lost it again to another task counts if
the whole second half is below `_LOW`. Fewer than `_STEPS` (30) steps tell nothing: the median of
the last tenth is made of five losses.

**Source.** Custom puts a healthy ratio near 1e-3; docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import Outcome, outcome
from surefoot.diagnosis.pace import Pace, pace, sound_pace
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity

_LOW = 3e-5
_STEPS, _LONG, _RISES = 30, 100, 0.1
_QUARTER = 0.25  # of the run, after which a schedule that ends does not end at once
_ONCE = 0.1  # of the trivial predictor's loss, gained in an earlier part of the run
_SWIFT = 0.03  # of its size in a step, for any one weight matrix
_KEPT, _GAINED = 0.9, 0.05
_RATHER = 2.0  # times a sound pace: who has been too slow loses more by a second time
_WAY = 0.02  # of the weights' size, all steps together
_FADED = 0.01  # of its highest: what is left of the pace at the end


def judge(case: Case) -> Iterator[Finding]:
    """Judge the pace together with the outcome."""
    steps, result = pace(case), outcome(case)
    if steps is None or not _too_slow(case, steps, result):
        return
    faded, again = _faded(steps, result), _again(steps, result)
    wanted = _RATHER * sound_pace(case.facts.steps)
    factor = min(wanted / max(steps.highest, 1e-12), 1e6)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.LEARNING_RATE_TOO_LOW,
        severity=Severity.HARMFUL,
        first_step=case.facts.steps // 2 if again else 0,
        last_step=case.facts.steps - 1,
        confidence=0.85,
        sentence=(
            f"Each step moves the weights by {steps.highest:.2g} of their size at most, all "
            f"of them together by {steps.path:.2g}: the learning rate is too low"
            f"{' and fades away' if faded else ''}; {result.words()}."
        ),
        evidence=(
            Evidence("all steps together, of the weights' size", steps.path, "> 0.05"),
            Evidence("update-to-weight ratio, highest median", steps.highest, "1e-4 to 1e-2"),
            Evidence("loss, first", result.initial, ""),
            Evidence("loss, last", result.final, "below 0.9 of the first"),
        ),
        remedies=(
            prescriptions.learning_rate(
                float(f"{factor:.1g}"), f"brings the update-to-weight ratio to about {wanted:.0e}"
            ),
        ),
    )


def _too_slow(case: Case, steps: Pace, result: Outcome) -> bool:
    """Whether so little became of the run because its weights hardly moved."""
    if case.facts.steps < _STEPS or result.diverged:
        return False
    if result.initial is None or result.final is None or not steps.highest > 0:
        return False  # a pace of exactly zero has another cause
    warming = _warms_up(case)
    if warming and case.facts.ended == "running":
        return False
    # Where not all stand still, those that do receive no gradient.
    most = 10 if case.facts.steps >= _LONG and not warming else 3
    slow = steps.highest < most * _LOW and steps.swift < _SWIFT
    if result.skill is None:
        return result.unmoved and slow and steps.path < _WAY
    if slow and steps.highest < _LOW and result.final >= _KEPT * result.initial:
        return True
    little = (slow or _faded(steps, result)) and steps.path < _WAY
    barely = little or _again(steps, result) or _over_at_once(case, result)
    return barely and result.skill < _GAINED


def _faded(steps: Pace, result: Outcome) -> bool:
    """Whether next to nothing of the pace is left at the end."""
    return result.trivial and steps.last < _FADED * steps.highest


def _again(steps: Pace, result: Outcome) -> bool:
    """Whether it had learned, and stands still in the second half."""
    return 0 < steps.late < _LOW and result.learned(_ONCE)


def _warms_up(case: Case) -> bool:
    """Whether the script's own rate still rises."""
    series = case.get("learning_rate")
    if not series.last.size:
        return False
    rates = np.fmax.reduce(series.last.astype(float), axis=1)  # a rate that is not known is NaN
    return bool(rates[-1] > (1 + _RISES) * rates[len(rates) // 2])


def _over_at_once(case: Case, result: Outcome) -> bool:
    """Whether the script's own schedule had ended before a quarter of the run was over."""
    series = case.get("learning_rate")
    if not result.trivial or not len(series) or not np.isfinite(series.high).any():
        return False
    rates = np.nanmax(series.high.astype(float), axis=1)
    spent = series.steps[rates >= _FADED * np.nanmax(rates)]
    return len(spent) > 0 and float(spent[-1]) < _QUARTER * case.facts.steps


RULE = Rule("SF302", "Learning rate too low", __doc__ or "", judge)
