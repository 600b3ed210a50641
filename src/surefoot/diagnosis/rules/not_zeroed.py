"""Gradients are not zeroed between steps: each step uses the sum of all gradients so far.

**What.** Every update follows the sum of all past gradients: like a momentum that never forgets,
it overshoots, oscillates or diverges.

**Why.** `optimizer.zero_grad()` is missing, or is called on another optimizer or at the wrong
place.

**Evidence.** When backward begins, the gradient is the very tensor that the last step used, never
written since: seen from its version counter, at the first 64 steps and at every eighth after them.
Accumulation over micro-batches does not do this (the optimizer does not step in between).

**Remedies.** Call `optimizer.zero_grad()` once for every step.

**Thresholds.** Of a loop that zeroes its gradients, or accumulates on purpose, no step is found:
the share is exactly nought. `_SHARE` (half, from the first such step on) leaves alone loops that
zero now and then, such as two optimizers that share parameters, and `_FEW` (a tenth of all) what
only the end of a run does. In 83 healthy trainings not one such step was seen. A run that has
gained `_LEARNS` (three quarters) of the trivial predictor's loss in spite of it gets advice.

**Source.** Definition.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.remedies import prescribed

_SHARE, _FEW, _LEARNS = 0.5, 0.1, 0.75
_ZERO = prescribed("gradients.zero", None, "so that a step follows its own batch")


def judge(case: Case) -> Iterator[Finding]:
    """Judge the share of steps that began with the gradients of the step before."""
    facts = case.facts
    if facts.followed < 2 or facts.carried < max(_SHARE * facts.since, _FEW * facts.followed, 1):
        return
    result = outcome(case)
    learns = not result.short and result.skill is not None and not result.poor(_LEARNS)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.OSCILLATING,
        cause=Cause.GRADIENTS_NOT_ZEROED,
        severity=Severity.ADVICE if learns else bad_severity(case),
        first_step=max(facts.first_carried - 1, 0),  # the step that left them behind
        last_step=facts.steps - 1,
        confidence=0.97,
        sentence=(
            f"At {facts.carried} of {facts.followed} steps looked at, backward added to the "
            f"gradients of the step before: they are never zeroed; {result.words()}."
        ),
        evidence=(Evidence("steps that began with old gradients", facts.carried, "0"),),
        remedies=(_ZERO,),
    )


RULE = Rule("SF401", "Gradients not zeroed", __doc__ or "", judge)
