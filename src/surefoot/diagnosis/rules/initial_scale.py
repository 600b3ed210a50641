"""The weights are too large for layers whose depth profile cannot show it.

**What.** The first loss, before any update, is several times that of a constant prediction: the
network starts out sure of itself and wrong.

**Why.** Behind normalisation or skip connections too large weights need not make the gradient
explode; they make outputs and attention scores absurd.

**Evidence.** The first loss against the trivial predictor, and the gain of the weight matrices
(Frobenius norm over the square root of the fan-out: about 1 is usual, ReLU wants 1.4).

**Remedies.** Initialise with a smaller standard deviation, 1/sqrt(fan-in) or 0.02 in transformers.

**Thresholds.** The gain of a matrix with independent entries is the factor by which it scales a
signal: 1 for Xavier, 1.41 for He, 0.58 for torch's default. `_GAIN` (3) is twice He's. A network
without an opinion starts at the trivial predictor's loss; `_LOSS` is twice that. Of 83 healthy
trainings five started higher, and the highest gain was 1.7: none has both. Vectors of an embedding
stand for an input, and are too large from an rms of `_VECTOR` (30) on, as an input is. Both
together, and `_LEARNS` (a quarter) of the loss not gained, make the finding; where no constant's
loss is known, half of all matrices above `_GAIN` do. A plain chain whose
gradients grow by `_CHAIN` (0.87 decades, four depth scales) or more is left to the rule on
explosion, which can name the layer.

**Source.** Definition of the isotropic gain of a matrix; docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.growth import growth
from surefoot.diagnosis.outcome import outcome, trivial_loss
from surefoot.diagnosis.profile import first_profile
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy
from surefoot.layers import Kind
from surefoot.remedies import prescribed
from surefoot.signals.flow import Call

_GAIN, _LOSS, _VECTOR = 3.0, 2.0, 30.0
_LEARNS, _CHAIN = 0.25, 0.87


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    flow, trivial, result = case.first, trivial_loss(case), outcome(case)
    if flow is None or not flow.loss.get("value"):
        return
    seen, found = first_profile(case), growth(case, 1, 0.0)
    if seen is not None and not seen.residual and found is not None and found.decades >= _CHAIN:
        return  # a plain chain shows it in its depth profile, with the layer
    ratio = float(flow.loss["value"]) / trivial if trivial is not None else None
    gains = {c.order: c.gain for c in flow.calls if c.weight_norm and c.weight_rows}
    gains |= {c.order: _scale(c) * _GAIN / _VECTOR for c in flow.calls if _embeds(case, c)}
    large = [c for c in flow.calls if gains.get(c.order, 0.0) > _GAIN]
    # A first loss that such weights have made is no measure of what came after it.
    blind = ratio is None and not result.short and float(np.median([*gains.values(), 0])) > _GAIN
    told = ratio is not None and ratio > _LOSS and result.poor(_LEARNS)
    if not large or not (told or blind):
        return
    worst = _origin(large, gains)
    name, gain = case.layers.title(worst.layer), gains[worst.order]
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING,
        cause=Cause.WEIGHTS_TOO_LARGE,
        layer=name,
        victims=tuple(case.layers.title(c.layer) for c in large if c is not worst),
        severity=bad_severity(case),
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.85,
        sentence=(
            f"The weights of {_they(name, len(large) - 1)} too large (gain {gain:.2g} where about "
            f"1 is usual){_first_loss(ratio)}; {result.words()}."
        ),
        evidence=(
            Evidence("first loss over the trivial predictor's", ratio, "0.9 to 1.5", flow.step),
            Evidence("gain of the layer's weights", gain, "0.5 to 1.7", flow.step),
            Evidence("layers with a gain above 3", len(large), "0", flow.step),
        ),
        remedies=_remedies(case, name, large),
    )


def _they(name: str, others: int) -> str:
    if others == 0:
        return f"{name} are"
    return f"{name} and {others} more layer{'s' if others > 1 else ''} are"


def _remedies(case: Case, name: str, large: list[Call]) -> tuple[Remedy, ...]:
    """For one layer on its own; where there are several the table knows the order."""
    if len(large) > 1:
        return ()
    embeds = case.layers.layers[large[0].layer].kind is Kind.EMBEDDING
    return (prescribed("init.default" if embeds else "init.rescale", name),)


def _first_loss(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f": the first loss is {ratio:.2g} times that of a constant prediction"


def _embeds(case: Case, call: Call) -> bool:
    return case.layers.layers[call.layer].kind is Kind.EMBEDDING


def _scale(call: Call) -> float:
    return call.output.rms if call.output is not None else 0.0


def _origin(large: list[Call], gains: dict[int, float]) -> Call:
    """The lone outlier if there is one, the first in execution order otherwise."""
    values = np.array(list(gains.values()))
    worst = max(large, key=lambda c: gains[c.order])
    lone = gains[worst.order] > 3 * float(np.median(values))
    return worst if lone and len(large) <= 0.3 * len(values) else large[0]


RULE = Rule("SF106", "Initial weights too large", __doc__ or "", judge)
