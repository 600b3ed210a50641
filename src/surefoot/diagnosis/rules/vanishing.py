"""Gradients vanish on the way from the output to the first layers.

**What.** At each layer on the way back the gradient shrinks by a factor, and over the depth the
factors multiply, until the first layers receive too little to learn from.

**Why.** A layer passes on the gradient times its weights times the slope of its activation. If that
product is below one at every layer, depth makes it vanish. A sigmoid's slope is at most 1/4, so it
vanishes even where nothing saturates; torch's default initialisation of a linear layer with ReLU
keeps 0.41 of it.

**Evidence.** The decades lost between the last and the first interior layer, split into the part of
the weights and of the activation; the loss against a constant prediction. A network that learns all
the same gets advice at most.

**Remedies.** Too small weights: Kaiming (ReLU) or Xavier (tanh) initialisation. A saturating
activation: ReLU or GELU with the gain that belongs to it. Deep networks: residual connections.
Clipping, warm-up or a larger learning rate do not help.

**Source.** Schoenholz et al. 2017 (growth chi_1 a layer); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.profile import Profile, profile
from surefoot.diagnosis.rule import Rule, gauge_severity, times
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity

_SLOPE = -0.35  # decades a layer lost to the activation's slope; ReLU loses 0.15, a sigmoid 0.63


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    flow = case.first
    seen = profile(flow, case.layers) if flow is not None else None
    if flow is None or seen is None:
        return
    decades, alone = seen.gauge(-1)
    severity = gauge_severity(case, decades, alone)
    if severity is None:
        return
    if severity is Severity.FATAL:  # what vanishes makes no NaN
        severity = Severity.HARMFUL
    gap, lone = _origin(seen, alone)
    stage = seen.stages[gap]
    cause = _cause(seen, gap if lone else None)
    by_weights = cause in (Cause.WEIGHTS_TOO_SMALL,) and stage.weight_layer is not None
    layer = stage.weight_layer if by_weights else stage.layer
    victims = [case.layers.title(s.layer) for s in seen.stages[: gap + 1] if s.layer != layer]
    name = case.layers.title(layer if layer is not None else stage.layer)
    first = case.layers.title(seen.stages[0].layer)
    rate = stage.step if lone else seen.per_layer
    where = f"at {name} alone" if lone else f"a layer from {name} down to {first}"
    target = (
        name if lone else prescriptions.pattern([case.layers.title(s.layer) for s in seen.stages])
    )
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.VANISHING,
        cause=cause,
        layer=name,
        victims=tuple(victims),
        severity=severity,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=float(np.clip(0.5 + 0.15 * decades, 0.6, 0.99)),
        sentence=(
            f"Gradients shrink {times(rate)} {where}, {times(seen.growth)} in all: "
            f"{_because(cause, seen, gap)}; {outcome(case).words()}."
        ),
        evidence=_evidence(case, seen, gap),
        remedies=prescriptions.for_depth(cause, target, seen.depth, seen.stages[gap].function),
    )


def _origin(seen: Profile, alone: bool) -> tuple[int, bool]:
    """(gap where the shrinking starts, coming from the output; whether it alone is to blame)."""
    culprit = seen.culprit()
    if alone and culprit is not None:
        return culprit[0], True
    shrinking = [i for i, s in enumerate(seen.stages[:-1]) if s.step < -0.05]
    return (max(shrinking) if shrinking else len(seen.stages) - 2), False


def _cause(seen: Profile, gap: int | None) -> Cause:
    stages = [seen.stages[gap]] if gap is not None else list(seen.stages[:-1])
    slope = float(np.median([s.activation for s in stages]))
    weights = float(np.median([s.weights for s in stages]))
    if seen.residual:
        return Cause.WEIGHTS_TOO_SMALL
    if slope < _SLOPE and slope < weights:
        return Cause.SATURATING_ACTIVATION
    return Cause.WEIGHTS_TOO_SMALL


def _because(cause: Cause, seen: Profile, gap: int) -> str:
    slope = float(np.median([s.activation for s in seen.stages[:-1]]))
    if cause is Cause.SATURATING_ACTIVATION:
        # A module shared by all layers is only seen at its first call.
        named = [seen.stages[gap].function, *(s.function for s in seen.stages), "activation"]
        name = next(name for name in named if name)
        return f"the slope of the {name} lets only 1/{times(slope)[:-1]} of it through"
    return "the weights are too small to pass it on"


def _evidence(case: Case, seen: Profile, gap: int) -> tuple[Evidence, ...]:
    inner = seen.stages[:-1]
    result = outcome(case)
    step = case.first.step if case.first is not None else 0
    rows = [
        Evidence("gradient growth to the first layer, decades", seen.growth, "-0.87 to 0.87", step),
        Evidence("growth a layer, decades", seen.per_layer, "near 0", step),
        Evidence(
            "part of the activation a layer, decades",
            float(np.median([s.activation for s in inner])),
            "-0.15 (ReLU) to 0",
            step,
        ),
        Evidence(
            "part of the weights a layer, decades",
            float(np.median([s.weights for s in inner])),
            "0 to 0.15",
            step,
        ),
    ]
    if result.skill is not None:
        rows.append(Evidence("loss gained on the trivial predictor, share", result.skill, "> 0.5"))
    return tuple(rows)


RULE = Rule("SF101", "Vanishing gradients", __doc__ or "", judge)
