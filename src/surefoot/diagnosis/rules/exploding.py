"""Gradients explode on the way from the output to the first layers.

**What.** At each layer on the way back the gradient grows by a factor, and over the depth the
factors multiply: updates of the first layers overshoot, the loss jumps or turns NaN.

**Why.** Weights whose scale is above what the activation allows; normalisation without skip
connections (batch norm with ReLU multiplies the gradient by 1.21 a layer whatever the weights are);
an activation whose slope exceeds one. A sigmoid cannot: its weights can.

**Evidence.** The decades gained between the last and the first interior layer, split into the parts
of weights, activation and normalisation; and how far the first loss lies above that of a constant
prediction.

**Remedies.** Weights: Kaiming or orthogonal initialisation. Normalisation: residual connections
around it. Clipping keeps the run alive and cures nothing.

**Source.** Schoenholz et al. 2017; Yang et al. 2019 (batch norm); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.profile import Profile, forward_explosion, profile
from surefoot.diagnosis.rule import Rule, bad_severity, gauge_severity, times
from surefoot.findings import Cause, Evidence, Finding, Pathology
from surefoot.signals.flow import Flow


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    flow = case.first
    seen = profile(flow, case.layers) if flow is not None else None
    if flow is None:
        return
    if seen is None:
        yield from _forward(case, flow)
        return
    decades, alone = seen.gauge(1)
    severity = gauge_severity(case, decades, alone)
    if severity is None:
        return
    gap, lone = _origin(seen, alone)
    cause = Cause.WEIGHTS_TOO_LARGE if lone else _cause(seen)
    stage = seen.stages[gap]
    layer = stage.weight_layer if stage.weight_layer is not None else stage.layer
    name, first = case.layers.title(layer), case.layers.title(seen.stages[0].layer)
    victims = [case.layers.title(s.layer) for s in seen.stages[: gap + 1] if s.layer != layer]
    rate = stage.step if lone else seen.per_layer
    where = f"at {name} alone" if lone else f"a layer from {name} down to {first}"
    target = (
        name if lone else prescriptions.pattern([case.layers.title(s.layer) for s in seen.stages])
    )
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING,
        cause=cause,
        layer=name,
        victims=tuple(victims),
        severity=severity,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=float(np.clip(0.5 + 0.15 * decades, 0.6, 0.99)),
        sentence=(
            f"Gradients grow {times(rate)} {where}, {times(seen.growth)} in all: "
            f"{_BECAUSE[cause]}; {outcome(case).words()}."
        ),
        evidence=_evidence(seen, flow.step),
        remedies=prescriptions.for_depth(cause, target, seen.depth, stage.function),
    )


def _forward(case: Case, flow: Flow) -> Iterator[Finding]:
    """A forward pass that overflows at the first step: its gradients can tell nothing."""
    found = forward_explosion(flow, case.layers)
    if found is None:
        return
    layer, weights, activation = found
    by_weights = weights > activation
    depth = sum(x.kind.weighted for x in case.layers.layers)
    cause = Cause.WEIGHTS_TOO_LARGE if by_weights else Cause.UNBOUNDED_ACTIVATION
    name = case.layers.title(layer)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING,
        cause=cause,
        layer=name,
        severity=bad_severity(case),
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.85,
        sentence=(
            f"Activations grow {times(weights + activation)} from {name} on until they overflow: "
            f"{_BECAUSE[cause]}; {outcome(case).words()}."
        ),
        evidence=(
            Evidence("forward growth by the weights, decades", weights, "near 0", flow.step),
            Evidence("forward growth by the activations, decades", activation, "<= 0", flow.step),
        ),
        remedies=prescriptions.for_depth(cause, "*", depth, None),
    )


_BECAUSE = {
    Cause.WEIGHTS_TOO_LARGE: "the weights are too large",
    Cause.NORMALIZATION_WITHOUT_SKIP: (
        "normalisation without skip connections rescales every layer's gradient upwards"
    ),
    Cause.UNBOUNDED_ACTIVATION: "the activation's slope is above one",
}


def _cause(seen: Profile) -> Cause:
    inner = seen.stages[:-1]
    weights = sum(s.weights for s in inner)
    activation = sum(s.activation for s in inner)
    normalization = sum(s.normalization for s in inner)
    if normalization > 0.5 * seen.growth and normalization > 0.8 * (weights + activation):
        return Cause.NORMALIZATION_WITHOUT_SKIP
    if activation > 0.5 * seen.growth and activation > weights:
        return Cause.UNBOUNDED_ACTIVATION
    return Cause.WEIGHTS_TOO_LARGE


def _origin(seen: Profile, alone: bool) -> tuple[int, bool]:
    """(gap where the growth starts, coming from the output; whether it alone is to blame)."""
    culprit = seen.culprit()
    if alone and culprit is not None:
        return culprit[0], True
    growing = [i for i, s in enumerate(seen.stages[:-1]) if s.step > 0.03]
    return (max(growing) if growing else len(seen.stages) - 2), False


def _evidence(seen: Profile, step: int) -> tuple[Evidence, ...]:
    inner = seen.stages[:-1]

    def median(part: str) -> float:
        return float(np.median([getattr(s, part) for s in inner]))

    expected = {"weights": "0 to 0.15", "activation": "-0.15 to 0", "normalization": "near 0"}
    return (
        Evidence("gradient growth to the first layer, decades", seen.growth, "-0.87 to 0.87", step),
        Evidence("growth a layer, decades", seen.per_layer, "near 0", step),
        *(
            Evidence(f"part of the {part} a layer, decades", median(part), expected[part], step)
            for part in ("weights", "activation", "normalization")
        ),
    )


RULE = Rule("SF102", "Exploding gradients", __doc__ or "", judge)
