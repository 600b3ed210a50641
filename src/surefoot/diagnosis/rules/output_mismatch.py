"""The output's activation does not fit the loss function.

**What.** The model ends in an operation whose values have bounds, a softmax, a sigmoid, a tanh, and
the loss wants values beyond them: scores without bounds, or targets that lie outside.

**Why.** `cross_entropy` and `binary_cross_entropy_with_logits` expect raw scores and apply their
own softmax or sigmoid; a tanh never gives 3. Part of the loss is out of reach, and the units are
driven into saturation on the way there.

**Evidence.** The operations between the loss and the model's last affine layer, read from the
graph; the least loss that is within their bounds on the targets of the batch; what became of the
run.

**Remedies.** Remove the activation at the output, or bring the targets within its bounds.

**Thresholds.** The operation is there or it is not, and its bounds are exact: k scores between 0
and 1 keep a cross-entropy above `log(1 + (k - 1) / e)`, 1.46 for ten classes, 64 % of a constant
prediction's. Less than `_OUT` (a tenth) out of reach is left to noise in the targets. A run that
has gained `_LEARNS` (half) of the constant prediction's loss has found a way around, and gets
advice if the loss applies the very same operation again, and nothing otherwise.

**Source.** Definition of the functions in torch.nn.functional.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Severity
from surefoot.signals.reach import last_operation

_LEARNS, _OUT = 0.5, 0.1
_DOUBLED = ("SoftmaxBackward0", "SigmoidBackward0")
_SCORES = ("cross_entropy", "bce")  # losses that apply a softmax or sigmoid themselves
_LOGITS = Remedy(
    "output.logits",
    None,
    "the loss expects raw scores and applies its own softmax or sigmoid",
    "return self.head(x)   # without an activation",
)
WITHIN_RANGE = Remedy(
    "output.linear",
    None,
    "targets outside of the activation's bounds cannot be reached",
    "return self.head(x)   # or targets brought within the bounds",
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge the anatomy of the first loss."""
    flow = case.first
    if flow is None or not flow.loss:
        return
    kind, name = flow.loss.get("kind") or "", _operation(flow.loss)
    if name is None:
        return
    doubled = kind in _SCORES and name in _DOUBLED
    out, result = _out_of_reach(flow.loss), outcome(case)
    poor = result.poor(_LEARNS)
    if not doubled and not (out is not None and out >= _OUT and poor):
        return
    word = name.removesuffix("Backward0").lower()
    share = (
        ""
        if out is None
        else f": {min(out, 1):.0%} of a constant prediction's loss is out of reach"
    )
    why = (
        "the loss applies its own on top of it"
        if doubled
        else "the loss asks for scores without bounds"
        if kind in _SCORES
        else "the targets lie outside of its bounds"
    )
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.SATURATED,
        cause=Cause.OUTPUT_ACTIVATION_MISMATCH,
        severity=Severity.HARMFUL if poor else Severity.ADVICE,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.95,
        sentence=f"The model ends in a {word}, and {why}{share}; {result.words()}.",
        evidence=(
            Evidence("operation before the loss", word, "none with bounds", flow.step),
            Evidence("loss out of reach, of a constant prediction's", out, "0", flow.step),
        ),
        remedies=(_LOGITS if kind in _SCORES else WITHIN_RANGE,),
    )


def _operation(loss: Mapping[str, Any]) -> str | None:
    return last_operation(loss.get("kind") or "", loss.get("operations") or [])


def _out_of_reach(loss: Mapping[str, Any]) -> float | None:
    floor, trivial = loss.get("floor"), loss.get("trivial")
    return None if floor is None or not trivial else float(floor) / float(trivial)


RULE = Rule("SF403", "Output activation does not fit the loss", __doc__ or "", judge)
