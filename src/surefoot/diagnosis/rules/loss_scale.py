"""The loss is multiplied by a constant that makes the steps too long or too short.

**What.** The training diverges or stands still, while everything behind the loss is in order.

**Why.** A sum where a mean was meant, or a factor, scales every gradient; with an optimizer that
does not rescale (SGD), or where Adam's eps takes over, it acts like a wrong learning rate.

**Evidence.** The constants between the loss function and the number on which backward is called,
read from its graph; and an update-to-weight ratio that is off in the same direction. A scaled loss
with a learning rate to match is no finding.

**Remedies.** Use reduction='mean', or divide the learning rate by the factor.

**Thresholds.** A factor between 1/8 and `_FACTOR` (8) is within the range in which learning rates
are chosen anyway, and a sum over fewer than eight elements is within it too. The steps must be off
in the same direction: too long as for a learning rate that is too high, or at most `_SHORT` (3e-5)
of the weights at their longest, as for one that is too low; and less than `_GAINED` (5 %) of the
trivial predictor's loss gone. A factor on a mean, which someone wrote down, is blamed from
`_WEIGHT` (128) on: terms of a loss are weighted by up to 100 in papers whose networks train. A
factor below `_TINY` (1e-4) on all of a loss whose function is not known is no weight between its
terms either. Steps of gradient descent that are no longer than weight decay alone makes them are as
short as none.

A factor that was there from the first step on is no reason why a run is lost that had gained
`_LEARNED` (a quarter).

**Source.** Definition; the chain rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.diagnosis.rules import first_update
from surefoot.diagnosis.rules.learning_rate_high import overshoots
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.remedies import prescribed

_FACTOR, _WEIGHT, _TINY = 8.0, 128.0, 1e-4
_LEARNED = 0.25
_SHORT, _GAINED = 3e-5, 0.05


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first loss whose anatomy could be read."""
    losses = [x for x in case.losses if x.get("kind") is not None]
    steps, result = pace(case), outcome(case)
    if not losses or steps is None or not (result.poor(_GAINED) or result.unmoved):
        return
    factor = abs(float(losses[0]["multiplier"]))
    # Under SGD a constant factor and a learning rate are one and the same: only a sum, which few
    # mean to take, or a weight that no one gives, is blamed before the learning rate is.
    overshot = overshoots(case) or first_update.overshot(case) is Severity.HARMFUL
    meant = _FACTOR if losses[0].get("summed") else _WEIGHT
    too_long = factor > meant and overshot and not result.learned(_LEARNED)
    # A factor inside a loss that cannot be read as a whole may be a part of its definition.
    read = losses[0]["kind"] not in ("unknown", "composite")
    least = 1 / _FACTOR if read else _TINY
    still = steps.highest <= max(_SHORT, _decay(case))
    too_short = 0 < factor <= least and still and not result.diverged
    if not (too_long or too_short):
        return
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING if too_long else Pathology.STALLED,
        cause=Cause.LOSS_SCALE,
        severity=bad_severity(case),
        first_step=0,
        last_step=case.facts.steps - 1,
        confidence=0.8,
        sentence=(
            f"The loss is {factor:.3g} times its mean when backward is called, and each step moves "
            f"the weights by {steps.highest:.2g} of their size; {result.words()}."
        ),
        evidence=(
            Evidence("factor on the mean loss", factor, f"{1 / _FACTOR:g} to {_FACTOR:g}", 0),
            Evidence("update-to-weight ratio, highest median", steps.highest, "1e-4 to 1e-2"),
        ),
        remedies=(
            prescribed(
                "loss.mean",
                None,
                "the gradient's size then does not depend on the batch size",
                factor=factor,
            ),
        ),
    )


def _decay(case: Case) -> float:
    """How far weight decay alone moves the weights in a step of plain gradient descent."""
    given = dict(case.facts.settings)
    if {"beta2", "alpha", "rho"} & given.keys():
        return 0.0
    rate = given.get("lr", 0.0) * given.get("weight_decay", 0.0)
    return rate / max(1 - given.get("momentum", 0.0), 1e-3)


RULE = Rule("SF303", "Loss scale", __doc__ or "", judge)
