"""The output's activation does not fit the loss function.

**What.** A softmax or sigmoid is applied before a loss function that applies its own: the loss can
no longer come near zero, and the gradient is squashed twice.

**Why.** `cross_entropy` and `binary_cross_entropy_with_logits` expect raw scores.

**Evidence.** The operations between the loss and the model's last affine layer, read from the
graph.

**Remedies.** Remove the activation at the output.

**Thresholds.** The operation is there or it is not. A doubled softmax keeps a loss of k classes
above `log(1 + (k - 1) / e)`, 1.46 for ten, which is 36 % below a constant prediction's: a run that
has gained `_LEARNS` (half) of that has found a way around, and gets advice.

**Source.** Definition of the loss functions in torch.nn.functional.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Severity

_LEARNS = 0.5
_DOUBLED = {
    "cross_entropy": ("LogSoftmaxBackward0", ("SoftmaxBackward0", "SigmoidBackward0")),
    "bce": ("BinaryCrossEntropyWithLogitsBackward0", ("SigmoidBackward0", "SoftmaxBackward0")),
}


def judge(case: Case) -> Iterator[Finding]:
    """Judge the anatomy of the first loss."""
    flow = case.first
    kind = flow.loss.get("kind") if flow is not None else None
    if flow is None or kind not in _DOUBLED:
        return
    own, doubled = _DOUBLED[kind]
    operations = flow.loss.get("operations", [])
    if own not in operations:
        return
    behind = operations[operations.index(own) + 1 :][:2]
    found = next((name for name in behind if name in doubled), None)
    if found is None:
        return
    result = outcome(case)
    word = found.removesuffix("Backward0").lower()
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.SATURATED,
        cause=Cause.OUTPUT_ACTIVATION_MISMATCH,
        severity=Severity.HARMFUL if result.poor(_LEARNS) else Severity.ADVICE,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.95,
        sentence=(
            f"The model ends in a {word}, and the loss applies its own on top of it: the gradient "
            f"is squashed twice; {result.words()}."
        ),
        evidence=(Evidence("operation before the loss", word, "raw scores", flow.step),),
        remedies=(
            Remedy(
                "output.logits",
                None,
                f"the loss expects raw scores and applies {word} itself",
                "return self.head(x)   # without softmax or sigmoid",
            ),
        ),
    )


RULE = Rule("SF403", "Output activation does not fit the loss", __doc__ or "", judge)
