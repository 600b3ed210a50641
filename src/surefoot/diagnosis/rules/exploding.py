"""Gradients explode on the way from the output to the first layers.

**What.** At each layer on the way back the gradient grows by a factor, and over the depth the
factors multiply: updates of the first layers overshoot, the loss jumps or turns NaN.

**Why.** Weights whose scale is above what the activation allows; normalisation without skip
connections (batch norm with ReLU multiplies the gradient by 1.21 a layer whatever the weights are);
an activation whose slope exceeds one. A sigmoid cannot: its weights can.

**Evidence.** The decades gained between the last and the first interior layer, split into the parts
of weights, activation and normalisation; and how far the first loss lies above that of a constant
prediction.

**Remedies.** Weights: brought to the gain of their activation, or drawn anew (Kaiming, Xavier).
Deep networks and normalisation: residual connections. Clipping scales all layers alike: it keeps
the run alive and cures nothing.

**Thresholds.** How many decades matter, and with what outcome, is the same for all rules on growth:
0.87, 1.3 and 2 decades are four, six and nine depth scales. A layer takes part from `_PART` (0.03
decades, 7 %) on, a third of what batch norm with ReLU multiplies by, whatever the weights are:
`log10(pi / (pi - 1)) / 2 = 0.083`. The cause is the part that has more than `_HALF` of the growth.
With normalisation the parts of weights and activation cancel each other: theirs is the sum, and
normalisation has to reach `_ABOUT` (0.8) of it, for a sum over finite layers scatters by `sqrt(5 /
n)`, a fifth at a hundred units. A later step that is lost is an activation's doing if the signal
grew by it `_STEEP` (3) times as many decades as by the weights: three quarters of the whole. Where
no step moved the weights by `_SHORT` (3e-5), gradients that grow throw nothing away.

**Source.** Schoenholz et al. 2017; Yang et al. 2019 (batch norm); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.growth import growth, outlier
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.profile import Profile, first_profile, forward_explosion
from surefoot.diagnosis.rule import Rule, bad_severity, times
from surefoot.findings import Cause, Evidence, Finding, Pathology
from surefoot.signals.flow import Flow

_PART = 0.03  # decades
_HALF, _ABOUT, _STEEP = 0.5, 0.8, 3.0
_SHORT = 3e-5  # of the weights in a step
_BECAUSE = {
    Cause.WEIGHTS_TOO_LARGE: "the weights are too large",
    Cause.NORMALIZATION_WITHOUT_SKIP: (
        "normalisation without skip connections rescales every layer's gradient upwards"
    ),
    Cause.UNBOUNDED_ACTIVATION: "the activation's slope is above one",
}


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    flow = case.first
    if flow is not None and first_profile(case) is None:
        yield from _forward(case, flow)
    lost = next((f for f in case.flows if f.replayed and f.origin), None)
    if lost is not None and first_profile(case) is not None:
        yield from _forward(case, lost, _STEEP)
    found, steps = growth(case, 1, _PART), pace(case)
    still = steps is not None and 0 < steps.highest < _SHORT and not outcome(case).diverged
    if found is not None and not still:
        lone = found.lone or (flow is not None and outlier(flow, case) is not None)
        cause = Cause.WEIGHTS_TOO_LARGE if lone else _cause(found.seen)
        because = _BECAUSE[cause]
        yield found.finding(RULE.id, Pathology.EXPLODING, cause, because, by_weights=True)


def _forward(case: Case, flow: Flow, steep: float = 0.0) -> Iterator[Finding]:
    """A forward pass that overflows: its gradients can tell nothing.

    steep: times the growth by the weights that that by the activations must be. A later step that
    was too long overflows as well, but then by the weights that it has made.
    """
    found = forward_explosion(flow, case.layers)
    if found is None or found[2] < steep * max(found[1], 0.0):
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


def _cause(seen: Profile) -> Cause:
    inner = seen.stages[:-1]
    weights = sum(s.weights for s in inner)
    activation = sum(s.activation for s in inner)
    normalization = sum(s.normalization for s in inner)
    if normalization > _HALF * seen.growth and normalization > _ABOUT * (weights + activation):
        return Cause.NORMALIZATION_WITHOUT_SKIP
    if activation > _HALF * seen.growth and activation > weights:
        return Cause.UNBOUNDED_ACTIVATION
    return Cause.WEIGHTS_TOO_LARGE


RULE = Rule("SF102", "Exploding gradients", __doc__ or "", judge)
