"""The run was spoilt at once, and a guard had to roll it back.

**What.** From one step to the next the loss left its level for good, and came back to it only when
the guard put an earlier state of the run in place. Without a guard the run would have been lost.

**Why.** One or a few steps at a learning rate far above that of the steps before move weights out
of the region in which they were trained. Where the rate was what it had been, the weights were
changed by something else than a step: by the script, or by faulty memory.

**Evidence.** The rollback itself: the loss was out of line for several steps in a row, and with the
earlier state it is back at its level. And the largest learning rate of the steps before it, over
the usual one.

**Remedies.** The rate as it was, reached by warm-up where it has to change.

**Thresholds.** `_LEAP`: a rate of three times the usual one. Rates of schedules leap by more at a
restart only, after which the loss of a sound run comes down by itself: no rollback stands. The
damage is done within `_BEFORE` (16) steps before the rollback, for a guard waits for eight losses
at most; what is usual is the median of the `_USUAL` (256) steps before those.

**Source.** The guard's own proof (docs/guard.md): a rollback that does not help is taken back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity

_LEAP = 3.0  # times the usual rate
_BEFORE = 16  # steps before a rollback in which the damage was done
_USUAL = 256  # steps before those


def judge(case: Case) -> Iterator[Finding]:
    """Judge the rollbacks that the loss called for and that stand."""
    steps = standing(case)
    if not steps:
        return
    rate, usual = max((_rates(case, step) for step in steps), key=lambda pair: pair[0] / pair[1])
    leapt = rate >= _LEAP * usual
    ended = any(act.detail["rung"] == "halt" for act in case.acts)
    times = f"{len(steps)} times" if len(steps) > 1 else "once"
    why = (
        f"at a learning rate of {rate:.2g}, where {usual:.2g} was usual, the loss left its level"
        if leapt
        else "the loss left its level although the learning rate was the usual one: the weights "
        "were changed by something else than a step"
    )
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING,
        cause=Cause.LEARNING_RATE_TOO_HIGH if leapt else Cause.UNKNOWN,
        severity=Severity.FATAL,
        first_step=max(steps[0] - _BEFORE // 2, 0),
        last_step=steps[-1],
        confidence=0.95 if leapt else 0.6,
        sentence=(
            f"{why[0].upper()}{why[1:]}; the guard rolled the run back {times}"
            f"{', and halted it at last' if ended else ''}."
        ),
        evidence=(
            Evidence("rollbacks that helped", len(steps), "0", steps[0]),
            Evidence("learning rate, largest before a rollback", rate, f"about {usual:.2g}"),
        ),
        remedies=(
            (prescriptions.learning_rate(usual / rate, "the rate at which the run was sound"),)
            if leapt
            else ()
        ),
    )


def standing(case: Case) -> list[int]:
    """Steps of rollbacks that the loss called for and that were not taken back."""
    steps: list[int] = []
    for act in case.acts:
        if act.detail["rung"] == "roll back" and "losses" in act.detail["reason"]:
            steps.append(act.step)
        elif act.detail["rung"] == "undo" and steps:
            steps.pop()
    return steps


def _rates(case: Case, step: int) -> tuple[float, float]:
    """The largest learning rate of the steps before a rollback, and the usual one before those."""
    series = case.get("learning_rate")
    near = (series.steps > step - _BEFORE) & (series.steps <= step)
    far = (series.steps > step - _USUAL) & (series.steps <= step - _BEFORE)
    if not near.any() or not far.any():
        return 1.0, 1.0
    rates = series.last[:, :1]
    return float(np.nanmax(rates[near])), float(max(np.nanmedian(rates[far]), 1e-30))


RULE = Rule("SF501", "The run had to be rolled back", __doc__ or "", judge)
