"""Representations collapse: all inputs look alike in the last hidden layer.

**What.** The activations of different samples have become nearly parallel, so the gradient says
nothing about the single input. Their scale, and the gradient's, may be perfectly fine.

**Why.** Every ReLU layer without normalisation or skip connection pulls its inputs together; with
depth nothing but one direction is left. That is how deep plain networks with a correct
initialisation really fail.

**Evidence.** The mean cosine between different samples' activations in the last hidden layers,
beside that of the first; and a loss that stays behind.

**Remedies.** Residual connections, or a looks-linear initialisation. Another scale of the weights,
clipping or warm-up do not help.

**Thresholds.** With ReLU layers the cosine c of two inputs follows `c' = (sqrt(1 - c^2) + c (pi -
acos c)) / pi` a layer, whatever the weights: from nought it is 0.87 after `_DEPTH` (10) layers,
where a network is not blamed on depth yet, 0.95 after `_DEEP` (20), and 0.97 after 30. `_COLLAPSED`
(0.95) is thus what theory gives the depth at which plain networks begin to fail, and `_DEEP` is
asked for before training and of a run of four dozen steps, when no loss speaks yet, and of a run
that diverged, which must never have gained `_BEGAN` (a tenth) of the trivial predictor's loss. All
six networks measured above 0.95 trained badly, but of 26 healthy trainings four stand there too and
learn: so the run must not have gained `_LEARNS` (half) of the trivial predictor's loss, nor, if it
is shallower than `_DEEP`, `_HALFWAY` (a quarter) while it goes on to gain; and of such a one whose
weights do not move at all, the pace is what is wrong.

**Source.** Cho & Saul 2009 (the kernel of a ReLU layer); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.profile import first_profile
from surefoot.diagnosis.rule import Rule, at_rest, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.signals.flow import Call

_COLLAPSED = 0.95
_LEARNS = 0.5
_DEPTH = 10  # weighted layers: a shallower network is not collapsed by depth
_DEEP = 20  # before training: twice that, for nothing else speaks yet; so of a run that diverged
_HALFWAY = 0.25  # of it, by a run that goes on to gain
_BEGAN = 0.1  # of the trivial predictor's loss gained at some time


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    flow, seen, hidden = case.first, first_profile(case), collapsed_calls(case)
    if flow is None or seen is None or not hidden:
        return
    result = outcome(case)
    most = max(c.cosine or 0.0 for c in hidden)
    start = next(c for c in hidden if (c.cosine or 0.0) >= _COLLAPSED)
    name = case.layers.title(start.layer)
    victims = [case.layers.title(c.layer) for c in hidden if c.order > start.order]
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.COLLAPSED,
        cause=Cause.DEPTH_WITHOUT_SKIP,
        layer=name,
        victims=tuple(victims),
        severity=_severity(case, seen.depth),
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.85 if most > 0.98 else 0.7,
        sentence=(
            f"From {name} on, all inputs look alike (mean cosine up to {most:.3f}): "
            f"{seen.depth} layers without a skip connection collapse the representation; "
            f"{result.words()}."
        ),
        evidence=(
            Evidence("mean cosine of samples, most alike layer", most, "< 0.95", flow.step),
            Evidence(
                "mean cosine of samples, first layer", hidden[0].cosine, "below that", flow.step
            ),
        ),
        remedies=prescriptions.for_depth(Cause.DEPTH_WITHOUT_SKIP, name, seen.depth, None),
    )


def collapsed_calls(case: Case) -> list[Call]:
    """The hidden layers of a deep plain network that fails and collapses; empty if it does not.

    What looks alike anywhere on the way stays alike: no layer behind can tell it apart again.
    """
    flow, seen, result = case.first, first_profile(case), outcome(case)
    if flow is None or seen is None or seen.residual or seen.depth < _DEPTH:
        return []
    kinds = case.layers.layers
    known = [c for c in flow.calls if kinds[c.layer].kind.weighted and c.cosine is not None]
    hidden = known[:-1]
    if len(hidden) < _DEPTH - 1 or not result.poor(_LEARNS):
        return []
    if result.diverged and (len(hidden) < _DEEP or result.learned(_BEGAN)):
        return []  # it had begun to learn before it was lost, or is not deep enough to be sure
    deep = (c.cosine or 0.0 for c in hidden[_DEPTH - 2 :])
    return hidden if max(deep, default=0.0) >= _COLLAPSED else []


def _severity(case: Case, depth: int) -> Severity:
    """At first, a shallower network whose signal fades into its biases may still mend."""
    result = outcome(case)
    early = result.untrained or result.young or result.learning(_HALFWAY) or at_rest(case)
    return Severity.ADVICE if early and depth < _DEEP else bad_severity(case)


RULE = Rule("SF104", "Collapsed representations", __doc__ or "", judge)
