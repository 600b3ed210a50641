"""The input has a scale that the network was not initialised for.

**What.** The first layer receives numbers in the hundreds (or thousandths): outputs and losses
start absurdly high, units saturate or die, or the signal drowns in the biases.

**Why.** Initialisation keeps the scale of unit-sized inputs; whatever comes in larger stays larger.

**Evidence.** The root mean square of the floating-point inputs at the first step, the first loss
against a constant prediction, and a run that does not learn. Raw pixels that train are no finding.

**Remedies.** Standardise the input: subtract the mean, divide by the standard deviation.

**Thresholds.** `_ABSURD` (300) is above whatever eight bits can hold, so no picture reaches it: a
run that has not gained `_MOST` (three quarters) of the trivial predictor's loss is enough. From
`_LARGE` (30) on, raw pixels are included, many of which train: there it takes a run that has not
gained `_SOME` (a quarter). Where `_SHUT` (30 %, as SF108 asks) of the units of a tanh or sigmoid
are closed by it, or the outputs are no larger than `_CALM` (3, three deviations of a standardised
answer), nothing explodes. Where the run has only its own first loss to be compared with, that loss
is absurd as well, and it is enough that the first layer is fed such an input. While the loss of a
run of fewer than 48 steps comes down, `_LARGE` is not held against it, and `_ABSURD` not if it has
gained `_SOME`. Of 78 healthy trainings with floating-point inputs one lies above it (pixels of 0 to
255: 123), and none below 0.48. `_SMALL` (5e-3): a signal of rms r enters torch's default layer of n
inputs as `r / sqrt(3)` beside biases of `1 / sqrt(3 n)`, so at 5e-3 and a hundred inputs it is a
twentieth of them.

**Source.** Variance propagation (He et al. 2015); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import Outcome, outcome
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.layers import Kind
from surefoot.remedies import prescribed
from surefoot.signals.flow import Flow

_ABSURD, _LARGE, _SMALL = 300.0, 30.0, 5e-3
_MOST, _SOME = 0.75, 0.25
_BOUNDED, _SHUT, _CALM = ("tanh", "sigmoid", "softmax"), 0.3, 3.0
_STANDARDISE = prescribed(
    "input.standardise", None, "the initialisation assumes inputs of unit variance"
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge what entered the first instrumented step."""
    flow, result = case.first, outcome(case)
    entry = next((c for c in flow.calls if c.depth == 0 and c.input), None) if flow else None
    if flow is None or entry is None or entry.input is None:
        return
    rms = entry.input.rms
    # A first loss that is itself absurd is no measure of what came after it.
    blind = rms > _ABSURD and not result.trivial and not result.short and _goes_in(case, flow, rms)
    if not blind and not (result.poor(_MOST if rms > _ABSURD else _SOME) and _harms(result, rms)):
        return
    if _SMALL <= rms <= _LARGE or rms == 0:
        return
    large = rms > _LARGE
    yield Finding(
        rule=RULE.id,
        pathology=_pathology(case, flow) if large else Pathology.STALLED,
        cause=Cause.INPUT_SCALE,
        severity=_severity(case, flow, rms),
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.8,
        sentence=(
            f"The input's root mean square is {rms:.3g}, where about 1 is expected; "
            f"{result.words()}."
        ),
        evidence=(
            Evidence("input rms", rms, "0.1 to 10", flow.step),
            Evidence("largest input", entry.input.maxabs, "", flow.step),
        ),
        remedies=(_STANDARDISE,),
    )


def _harms(result: Outcome, rms: float) -> bool:
    """Not known to while a young run's loss comes down; what is absurd takes a gain for that."""
    return not result.descending or rms < _SMALL or (rms > _ABSURD and result.poor(_SOME))


def _pathology(case: Case, flow: Flow) -> Pathology:
    """What so large an input did: units that no longer move, or outputs out of all measure."""
    shut = max((c.frozen or 0.0 for c in flow.calls if c.activation in _BOUNDED), default=0.0)
    if shut >= _SHUT and not outcome(case).diverged:
        return Pathology.SATURATED
    last = next((c.output for c in reversed(flow.calls) if c.depth == 0 and c.output), None)
    calm = last is not None and last.rms <= _CALM and not outcome(case).diverged
    return Pathology.STALLED if calm else Pathology.EXPLODING


def _goes_in(case: Case, flow: Flow, rms: float) -> bool:
    """Whether the input reaches the first layer with weights as it is, not scaled by the model."""
    weighted = (c for c in flow.calls if case.layers.layers[c.layer].kind.weighted and c.input)
    first = next(weighted, None)
    return first is not None and first.input is not None and first.input.rms > 0.5 * rms


def _severity(case: Case, flow: Flow, rms: float) -> Severity:
    """Before training, raw pixels are worth knowing of and no more; they often train."""
    if not outcome(case).untrained:
        return bad_severity(case)
    leaves = (c for c in flow.calls if case.layers.layers[c.layer].leaf)
    normalised = next((case.layers.layers[c.layer].kind for c in leaves), None)
    if normalised is Kind.NORMALIZATION:
        return Severity.ADVICE
    return Severity.HARMFUL if rms > _ABSURD or rms < _SMALL else Severity.ADVICE


RULE = Rule("SF304", "Input scale", __doc__ or "", judge)
