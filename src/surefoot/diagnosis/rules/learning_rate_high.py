"""The learning rate is too high.

**What.** Steps overshoot: the loss climbs, jumps about without coming down, or turns NaN.

**Why.** A step is longer than the distance over which the gradient tells the truth.

**Evidence.** The update-to-weight ratio as the optimizer really applied it; what became of the
loss; and that nothing else explains it: the depth profile of the first step was in order, the
batches were, and no operation was undefined. A high ratio in a run that learns is not a finding.

**Remedies.** A lower learning rate, warm-up; clipping as insurance.

**Source.** SCIENCE.md section 5; REMEDIES.md section 6 (2/lr at initialisation is no test: healthy
networks begin above it).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import Outcome, outcome
from surefoot.diagnosis.pace import Pace, pace
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology

_HIGH = 0.1  # a tenth of the weights at every step
_FIRST = 0.5  # half of the weights at one of the first steps (Adam's first are long by design)
_DIVERGED = 0.01  # enough where the loss went up for good


def judge(case: Case) -> Iterator[Finding]:
    """Judge the pace together with the outcome."""
    steps, result = pace(case), outcome(case)
    if steps is None or not _moving(steps, result):
        return
    climbing = result.diverged or (result.skill or 0.0) < -0.05
    pathology = Pathology.EXPLODING if climbing else Pathology.OSCILLATING
    since = _since(case)
    yield Finding(
        rule=RULE.id,
        pathology=pathology,
        cause=Cause.LEARNING_RATE_TOO_HIGH,
        severity=bad_severity(case),
        first_step=since,
        last_step=case.facts.steps - 1,
        confidence=0.9 if steps.highest > 3 * _HIGH else 0.7,
        sentence=(
            f"Each step moves the weights by up to {steps.highest:.2g} of their size (typically "
            f"{steps.typical:.2g}): the learning rate is too high; {result.words()}."
        ),
        evidence=(
            Evidence("update-to-weight ratio, highest median", steps.highest, "1e-4 to 1e-2"),
            Evidence("update-to-weight ratio, typical", steps.typical, "1e-4 to 1e-2"),
            Evidence("update-to-weight ratio, first steps", steps.early, "1e-4 to 5e-2", 0),
            *(
                (Evidence("loss gained on the trivial predictor, share", result.skill, "> 0.1"),)
                if result.skill is not None
                else ()
            ),
        ),
        remedies=(
            prescriptions.learning_rate(
                0.1 if steps.highest < 1 else 0.01, "so that a step stays where the gradient holds"
            ),
            prescriptions.CLIP,
        ),
    )


def _moving(steps: Pace, result: Outcome) -> bool:
    """Whether the weights move too far for what comes of it."""
    if result.nonfinite:
        # A NaN out of a calm is not a step too long: its own rule tells what made it.
        return result.climbed and steps.highest >= _DIVERGED
    if result.diverged:
        return steps.highest >= _DIVERGED
    if result.short or result.skill is None:
        return False
    # Only a known yardstick tells a run that is lost from one whose loss is not meant to fall.
    leaping = result.trivial and steps.early >= _FIRST
    return (leaping or steps.typical >= _HIGH) and result.skill < 0.05


def _since(case: Case) -> int:
    """The step after which the loss was never again as low as at its best (0 if it never fell)."""
    if (outcome(case).best_skill or 0.0) < 0.1:
        return 0
    losses = case.get("loss")
    values = losses.last[:, 0].astype(float)
    finite = np.where(np.isfinite(values), values, np.inf)
    if not len(finite) or not np.isfinite(finite).any():
        return 0
    return int(losses.steps[int(np.argmin(finite))])


RULE = Rule("SF301", "Learning rate too high", __doc__ or "", judge)
