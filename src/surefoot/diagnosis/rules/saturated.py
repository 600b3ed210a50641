"""A layer's tanh, sigmoid or softmax units are saturated: their slope is next to zero for all data.

**What.** Units sit in the flat part of their activation for every sample of the batch. They still
give a value, but no gradient passes them, and nothing before them learns through them.

**Why.** What goes into them is too large: weights or biases too large, an input of another scale,
or steps so long that they pushed the units there. In attention, scores that are too large make the
softmax pick one key for every query, whatever the data say.

**Evidence.** The share of units whose slope is under 5 % of the largest on every sample, at
instrumented steps; the gain of the weights before them; the scale of the input; and a loss that
stays behind. A unit that is flat for some samples and steep for others learns: it does not count.

**Remedies.** Bring down what goes in: standardised inputs, Xavier initialisation, biases of zero,
scores divided by the root of the width; a lower learning rate if they were driven there.

**Thresholds.** Frozen units on a whole batch are no chance: with Xavier initialisation there are
none in tanh and sigmoid layers, and causal attention over T tokens has 1 / T of its rows (the first
query has one key). Measured, in units of the trivial predictor's loss: with a third of a tanh layer
frozen networks ended at 0.23 and 0.28, with 0.55 to 0.75 at 0.41 where their twin reached 0.01,
with all of it at 1. So `_SOME` (0.3) counts if the run has not gained `_FEW` (half) of that loss,
and `_MOST` (half) if it has not gained `_MANY` (three quarters). For the cause: a gain of weights
(Frobenius norm over the root of the fan-out) above `_GAIN` (3) is three times what keeps the scale;
an input rms above `_LARGE` (30) is thirty times what Xavier assumes. Units behind which no affine
layer follows are the model's answer: no step moved the weights by `_LONG` (half), so they went
where the targets drew them.

**Source.** Glorot & Bengio 2010, section 3 (saturation of tanh and sigmoid layers);
docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.diagnosis.rules import output_mismatch
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy
from surefoot.remedies import prescribed
from surefoot.signals.flow import Call, Flow

_SOME, _MOST, _FEW, _MANY = 0.3, 0.5, 0.5, 0.75
_GAIN, _LARGE, _LONG = 3.0, 30.0, 0.5
_NOWHERE = (
    Cause.INPUT_SCALE,
    Cause.LEARNING_RATE_TOO_HIGH,
    Cause.OUTPUT_ACTIVATION_MISMATCH,
)
_KINDS = ("tanh", "sigmoid", "softmax")
_BECAUSE = {
    Cause.INPUT_SCALE: "the input is too large",
    Cause.WEIGHTS_TOO_LARGE: "the weights before them are too large",
    Cause.LEARNING_RATE_TOO_HIGH: "the steps drove them there",
    Cause.OUTPUT_ACTIVATION_MISMATCH: "they are the output, and the targets lie beyond",
    Cause.SATURATING_ACTIVATION: "their biases, or what is added to their input, are too large",
}


def judge(case: Case) -> Iterator[Finding]:
    """Judge the live instrumented steps by the latest that shows saturation."""
    live = [f for f in case.flows if not f.replayed]
    result = outcome(case)
    if not result.poor(_MANY) or not live:
        return
    for flow in reversed(live):
        frozen = [c for c in flow.calls if _share(c) >= _SOME]
        worst = max(frozen, key=_share, default=None)
        if worst is None:
            continue
        if _share(worst) >= _MOST or result.poor(_FEW):
            most = [c for c in frozen if _share(c) >= _MOST] or [worst]
            # What saturates first may drive its neighbours there later.
            origin = min(most, key=lambda c: (_since(live, c, flow).step, c.order))
            yield _finding(case, flow, origin, frozen)
        return


def _share(call: Call) -> float:
    return (call.frozen or 0.0) if call.activation in _KINDS else 0.0


def _finding(case: Case, flow: Flow, origin: Call, frozen: list[Call]) -> Finding:
    first = _since([f for f in case.flows if not f.replayed], origin, flow)
    before = _fed_by(case, first, origin)
    cause = _cause(case, first, before, origin)
    layer = None if cause in _NOWHERE else before.layer
    name = case.layers.title(origin.layer if layer is None else layer)
    share = _share(origin)
    return Finding(
        rule=RULE.id,
        pathology=Pathology.SATURATED,
        cause=cause,
        layer=None if layer is None else name,
        victims=tuple(case.layers.title(c.layer) for c in frozen if c.layer != layer),
        severity=bad_severity(case),
        first_step=first.step,
        last_step=case.facts.steps - 1,
        confidence=0.9 if share >= _MOST else 0.7,
        sentence=(
            f"{share:.0%} of the {origin.activation} units after {name} are saturated on every "
            f"sample, and pass no gradient: {_BECAUSE[cause]}; {outcome(case).words()}."
        ),
        evidence=(
            Evidence("share of units saturated on the whole batch", share, "< 0.3", flow.step),
            Evidence("gain of the weights before them", before.gain, "0.5 to 1.7", first.step),
            Evidence("largest value that goes in", _largest(before), "a few units", first.step),
        ),
        remedies=_remedies(cause, name),
    )


def _since(live: list[Flow], origin: Call, latest: Flow) -> Flow:
    """The first instrumented step at which these units were saturated."""
    least = min(_share(origin), _SOME)
    return next((f for f in live if _at(f, origin) >= least), latest)


def _at(flow: Flow, origin: Call) -> float:
    return max((_share(c) for c in flow.calls if c.layer == origin.layer), default=0.0)


def _fed_by(case: Case, flow: Flow, origin: Call) -> Call:
    """The affine call whose output goes into the saturated units; in attention the largest one."""
    kinds = case.layers.layers
    here = next(c for c in flow.calls if c.layer == origin.layer)
    weighted = [c for c in flow.calls if kinds[c.layer].kind.weighted]
    if here.activation == "softmax":
        inside = [c for c in weighted if c.order > here.order and c.depth > here.depth]
        return max(inside[:3], key=lambda c: c.gain, default=here)
    return next((c for c in reversed(weighted) if c.order <= here.order), here)


def _at_the_output(case: Case, flow: Flow, origin: Call) -> bool:
    """Whether no affine layer follows the saturated units: they are the model's answer."""
    later = (c for c in flow.calls if c.order > origin.order)
    last = not any(case.layers.layers[c.layer].kind.weighted for c in later)
    return last and origin.activation != "softmax"


def _cause(case: Case, flow: Flow, before: Call, origin: Call) -> Cause:
    start, steps = case.first, pace(case)
    calm = steps is not None and steps.early < _LONG
    if calm and _at_the_output(case, flow, origin):
        return Cause.OUTPUT_ACTIVATION_MISMATCH
    if start is not None and flow.step > start.step:
        return Cause.LEARNING_RATE_TOO_HIGH
    entry = next((c for c in flow.calls if c.depth == 0 and c.input), None)
    if before.gain > _GAIN:
        return Cause.WEIGHTS_TOO_LARGE
    if entry is not None and entry.input is not None and entry.input.rms > _LARGE:
        return Cause.INPUT_SCALE
    return Cause.SATURATING_ACTIVATION


def _largest(call: Call) -> float | None:
    return call.output.maxabs if call.output is not None else None


def _remedies(cause: Cause, name: str) -> tuple[Remedy, ...]:
    if cause is Cause.INPUT_SCALE:
        return (prescribed("input.standardise", None, "units then see inputs of about one"),)
    if cause is Cause.OUTPUT_ACTIVATION_MISMATCH:
        return (output_mismatch.WITHIN_RANGE,)
    if cause is Cause.LEARNING_RATE_TOO_HIGH:
        return (prescriptions.learning_rate(0.1, "so that units are not driven into saturation"),)
    return (prescriptions.aimed(prescriptions.XAVIER, name),)


RULE = Rule("SF108", "Saturated units", __doc__ or "", judge)
