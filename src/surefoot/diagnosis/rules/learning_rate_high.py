"""The learning rate is too high.

**What.** Steps overshoot: the loss climbs, jumps about without coming down, or turns NaN.

**Why.** A step is longer than the distance over which the gradient tells the truth.

**Evidence.** The step tried again on copies: at its full length the loss of its own batch rises, at
a part of it the same step lowers it; another batch at the same weights is no different, and float64
changes nothing. Where it could not be tried, the update-to-weight ratio as the optimizer really
applied it, with what became of the loss. And that nothing else explains it: the depth profile of
the first step was in order, the batches were, and no operation was undefined. A long step or a high
ratio in a run that learns is not a finding.

**Remedies.** A lower learning rate, warm-up; clipping as insurance.

**Thresholds.** A step is proved too long by definition: its own loss falls along a part of it and
rises along the whole. Where that was not tried, the pace stands in for it. In 88 healthy trainings
the typical step moved the weights by 7 % at most, so `_HIGH` is 0.1; among the first steps 46 % at
most, so `_FIRST` (0.5) for Adam, whose first steps are long by design, and twice `_HIGH` for the
others, where the two exceptions learned. The planted learning rates had steps of 2.6 times the
weights and more. Where the loss went up for good, `_DIVERGED` (0.01) is enough: a step of less than
a hundredth does not leave the region of a sound loss at once. In all cases the run must have gained
less than `_GAINED` (5 %) of the trivial predictor's loss, or less than `_PROVED` (a quarter) where
a step is proved too long or both were too long and the first one moved the weights by `_OWN_SIZE`
(as much as they are), or the first one moved them by `_BEYOND` (three times that, after which the
same step is a small share of them), or less than `_HALF` where the step tried multiplied its own
loss by `_LEAP` (100), or have diverged. A run that is lost before a dozen losses were seen had no
time to diverge: a step of `_OWN_SIZE` is enough there, unless the NaN stays one in float64. A
single long step in the first tenth of a run (`_BEGINNING`) is no proof if the loss came to lie
`_GAINED` below where it stood before. A rise within `_WAKE` (32, the window of the batches' scale)
steps before a bad batch begins with that batch. Worse than a constant by half (`_WORSE`), a step
that moves a matrix by `_OWN_SIZE` is enough; and so is one of `_OWN_SIZE` at any time of a run that
has lost `_PROVED` of what it had gained. Of a run that has no constant to be compared with, a step
proved too long is held against it if the loss had been `_LEAP` times the first and did not come
down below that. The typical step of a run of fewer than 48 is one of the first: where no step was
tried, it is judged as those are, by `_FIRST` for every optimizer while the loss comes down. Of 586
healthy trainings 16 had been blamed after 13 steps, GPTs of other people's libraries among them.

**Source.** Cohen et al. 2021 (a curvature of 2/lr is no test: healthy networks begin above it);
docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.forensics import (
    length_in_words,
    right_length,
    step_rows,
    step_to_blame,
    steps_cleared,
)
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import Pace, pace, sound_pace
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.diagnosis.rules.bad_batch import blamed_since
from surefoot.findings import Cause, Evidence, Finding, Pathology
from surefoot.signals.forensics import Inquiry

_HIGH = 0.1  # a tenth of the weights at every step
_FIRST = 0.5  # half of the weights at one of the first steps (Adam's first are long by design)
_DIVERGED = 0.01  # enough where the loss went up for good
_GAINED = 0.05  # of the trivial predictor's loss: such a run learns
_WORSE = -0.5  # against the trivial predictor
_PROVED = 0.25  # the same where a step is proved too long
_HALF = 0.5  # the same where that step was beyond all measure
_WAKE = 32  # steps within which a bad batch and the rise of the loss are one
_BEGINNING = 0.1  # of the run: one long step there may be made good
_BEYOND = 3.0  # times the weights: nothing of their initialisation is left
_LEAP = 100.0  # times the first loss, or a batch's own before the step
_OWN_SIZE = 1.0  # a step as long as the weights themselves


def judge(case: Case) -> Iterator[Finding]:
    """Judge the trials of suspect steps, or the pace, together with the outcome."""
    steps, result = pace(case), outcome(case)
    if steps is None or not overshoots(case):
        return
    proof = step_to_blame(case)
    climbing = result.diverged or (result.skill or 0.0) < -_GAINED
    since = min(_since(case), proof.step) if proof is not None else _since(case)
    blamed = blamed_since(case)
    if blamed is not None and since <= blamed < since + _WAKE:
        since = blamed  # that a loss begins to rise is told within some steps only
    sound = right_length(proof) if proof is not None else None
    factor = min(sound or 1.0, _factor(case, steps))
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING if climbing else Pathology.OSCILLATING,
        cause=Cause.LEARNING_RATE_TOO_HIGH,
        severity=bad_severity(case),
        first_step=since,
        last_step=case.facts.steps - 1,
        confidence=0.97 if proof is not None else 0.9 if steps.highest > 3 * _HIGH else 0.7,
        sentence=(
            f"Each step moves the weights by up to {steps.highest:.2g} of their size (typically "
            f"{steps.typical:.2g}): the learning rate is too high; {_proven(proof)}"
            f"{result.words()}."
        ),
        evidence=(
            *(step_rows(proof) if proof is not None else ()),
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
            prescriptions.learning_rate(factor, "so that a step stays where the gradient holds"),
            prescriptions.CLIP,
        ),
    )


def _factor(case: Case, steps: Pace) -> float:
    """By which to multiply the rate.

    Where the optimizer divides by the gradient's size, a step is as long as its rate says, and the
    first ones tell by how much it is too long; elsewhere they depend on what they have made worse.
    """
    adaptive = {"beta2", "alpha", "rho"} & dict(case.facts.settings).keys()
    if adaptive and 0 < steps.early < float("inf"):
        factor = sound_pace(case.facts.steps) / steps.early
        return float(f"{min(max(factor, 1e-4), 0.3):.1g}")
    return 0.1 if steps.highest < 1 else 0.01


def _proven(proof: Inquiry | None) -> str:
    """The trial in a clause; empty without one."""
    length = right_length(proof) if proof is not None else None
    if proof is None or length is None:
        return ""
    after = dict(proof.lengths)
    return (
        f"step {proof.step} takes the loss of its own batch from {proof.loss:.3g} to "
        f"{after[1.0]:.3g}, at {length_in_words(length)} to {after[length]:.3g}; "
    )


def overshoots(case: Case) -> bool:
    """Whether the weights move too far for what comes of it."""
    steps, result = pace(case), outcome(case)
    if steps is None:
        return False
    proof = step_to_blame(case)
    if result.nonfinite:
        # A NaN out of a calm is not a step too long: its own rule tells what made it.
        if result.short and _OWN_SIZE <= steps.highest < np.inf and not _undefined(case):
            return True  # there was no time to climb
        return result.climbed and (proof is not None or steps.highest >= _DIVERGED)
    if result.skill is None or result.short:
        return False
    if proof is None and _settling(case, steps):
        return False
    if steps_cleared(case) and steps.early < _OWN_SIZE:
        return False  # a step as long as the weights had done the damage before that was looked at
    absurd = steps.early >= _OWN_SIZE and (steps.typical >= _HIGH or steps.early >= _BEYOND)
    if result.trivial and result.poor(_WORSE) and steps.swift >= _OWN_SIZE:
        return True
    if not result.trivial or result.searched:
        # Against its own first loss only: a loss that is not meant to fall may well rise.
        long = absurd or steps.typical >= _HIGH
        rises = long or (proof is not None and _leapt(case))
        failed = result.diverged or (rises and not _below_the_first(case))
        return failed and (proof is not None or long or steps.early >= _OWN_SIZE)
    if result.diverged:
        return proof is not None or steps.highest >= _DIVERGED
    fast = steps.early >= _first(case) or steps.typical >= _HIGH or steps.highest >= _OWN_SIZE
    ruined = steps.highest >= _OWN_SIZE and (result.best_skill or 0) - result.skill >= _PROVED
    sure = absurd or ruined or (proof is not None and not _made_good(case, proof))
    gained = _HALF if _blatant(proof) else _PROVED if sure else _GAINED
    return result.skill < gained and (sure or fast)


def _first(case: Case) -> float:
    """How far one of the first steps may move the weights."""
    return _FIRST if "adam" in case.facts.optimizer.lower() else 2 * _HIGH


def _settling(case: Case, steps: Pace) -> bool:
    """Whether a young run's steps are as long as first steps may be, or its loss comes down."""
    result = outcome(case)
    if not result.young or result.diverged or steps.swift >= _OWN_SIZE:
        return False
    return steps.early < (_FIRST if result.descending else _first(case))


def _made_good(case: Case, proof: Inquiry) -> bool:
    """Whether one of the first steps overshot, and the run has come to below where it stood."""
    final = outcome(case).final
    if final is None or proof.loss is None or proof.step >= _BEGINNING * case.facts.steps:
        return False
    return final < (1 - _GAINED) * proof.loss


def _blatant(proof: Inquiry | None) -> bool:
    """Whether the step multiplied the loss of its own batch out of all measure."""
    if proof is None or not proof.loss or proof.loss < 0:
        return False
    return not dict(proof.lengths).get(1.0, 0.0) < _LEAP * proof.loss


def _leapt(case: Case) -> bool:
    """Whether the loss was out of all measure at some time."""
    losses = case.get("loss").last[:, 0].astype(float)
    return bool(np.nanmax(losses) >= _LEAP * (outcome(case).initial or np.inf))


def _below_the_first(case: Case) -> bool:
    """Whether the loss ended clearly below the very first one, before any step."""
    first, final = case.get("loss").last[0, 0], outcome(case).final
    return final is None or bool(final < (1 - _PROVED) * first)


def _undefined(case: Case) -> bool:
    """Whether float64 gave no finite numbers either: then nothing was too large, but undefined."""
    return any(i.wide_finite is False for i in case.inquiries if i.why == "nonfinite")


def _since(case: Case) -> int:
    """The step from which the loss stays above what it had reached; 0 if it never got anywhere."""
    result = outcome(case)
    if (result.best_skill or 0.0) < 0.1 or result.yardstick is None:
        return 0
    losses = case.get("loss")
    values = losses.last[:, 0].astype(float)
    best = result.yardstick * (1 - (result.best_skill or 0.0))
    good = np.flatnonzero(values <= best + 0.25 * (result.yardstick - best))
    after = int(good[-1]) + 1 if len(good) else 0
    return int(losses.steps[min(after, len(values) - 1)])


RULE = Rule("SF301", "Learning rate too high", __doc__ or "", judge)
