"""The output's activation does not fit the loss function.

**What.** The model ends in an operation whose values have bounds, a softmax, a sigmoid, a tanh, and
the loss wants values beyond them: scores without bounds, or targets that lie outside.

**Why.** `cross_entropy` and `binary_cross_entropy_with_logits` expect raw scores and apply their
own softmax or sigmoid, and `nll_loss` logarithms of probabilities; a tanh never gives 3. Part of
the loss is out of reach, and the units are driven into saturation on the way there.

**Evidence.** The operations between the loss and the model's last affine layer, read from the
graph; the least loss that is within their bounds on the targets of the batch, in closed form or
searched for over all outputs within the bounds; what became of the run.

**Remedies.** Remove the activation at the output, or bring the targets within its bounds.

**Thresholds.** The operation is there or it is not, and its bounds are exact: k scores between 0
and 1 keep a cross-entropy above `log(1 + (k - 1) / e)`, 1.46 for ten classes, 64 % of a constant
prediction's. Less than `_OUT` (a tenth) out of reach is left to noise in the targets; of 587
healthy trainings none had a thirtieth. It is harm to any run that has not gained `_MOST` (nine
tenths) all the same. A run that has gained `_LEARNS` (half) of the constant prediction's loss has
found a way around, and gets advice if the loss applies the very same operation again, and nothing
otherwise. An activation at the output lets nothing through by itself only if its scores are of a
sane size, `_SCORES_ARE` (10) at most: a sigmoid's slope there is 4.5e-5 and not zero. Of a loss
that does not tell, such a doubled operation is harm enough: k scores between 0 and 1 never make one
of them likelier than `e / (e + k - 1)`.

**Source.** Definition of the functions in torch.nn.functional.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Severity
from surefoot.layers import Kind
from surefoot.remedies import prescribed
from surefoot.signals.flow import Flow
from surefoot.signals.reach import last_operation

_LEARNS, _MOST, _OUT = 0.5, 0.9, 0.1
_SCORES_ARE = 10.0
_DOUBLED = ("SoftmaxBackward0", "SigmoidBackward0")
_SCORES = ("cross_entropy", "bce")  # losses that apply a softmax or sigmoid themselves
_WORDS = dict.fromkeys(("addmm", "mm", "linear", "convolution", "bmm", "baddbmm"), "raw scores")
_LOGARITHMS = prescribed(
    "output.log_softmax",
    None,
    "a negative log-likelihood only has a least value for logarithms of probabilities",
)
_LOGITS = prescribed(
    "output.logits", None, "the loss expects raw scores and applies its own softmax or sigmoid"
)
WITHIN_RANGE = prescribed(
    "output.linear", None, "targets outside of the activation's bounds cannot be reached"
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge the anatomy of the first loss."""
    flow = case.first
    if flow is None or not flow.loss:
        return
    kind, result = flow.loss.get("kind") or "", outcome(case)
    raw = flow.loss.get("unnormalised")
    loss = next((x for x in case.losses if x.get("bounded")), flow.loss)
    name = raw or _operation(flow.loss) or flow.loss.get("squashed") or loss.get("bounded")
    closed = _closed(case, flow)
    if name is None and closed is None:
        return
    doubled = name is not None and name in (
        _DOUBLED if kind in _SCORES and not raw else (flow.loss.get("squashed"),)
    )
    out = _out_of_reach(loss)
    poor = result.poor(_LEARNS) or result.skill is None
    reachable = not (out is not None and out >= _OUT and result.poor(_MOST))
    shut = closed is not None and (result.poor(_LEARNS) or result.unmoved)
    # Shares in place of logarithms have a least value, scores have none.
    wrong = raw is not None and (poor or (result.final or 0.0) < 0)
    if not shut and not wrong and (name is None or (not doubled and reachable)):
        return
    word = (name or closed or "").removesuffix("Backward0").lower()
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.SATURATED,
        cause=Cause.OUTPUT_ACTIVATION_MISMATCH,
        severity=Severity.HARMFUL if poor or not reachable else Severity.ADVICE,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.95,
        sentence=(
            f"The model ends in {_WORDS.get(word, f'a {word}')}, and "
            f"{_why(kind, doubled, raw is not None, name is None, out)}; "
            f"{result.words()}."
        ),
        evidence=(
            Evidence("operation before the loss", word, "none with bounds", flow.step),
            Evidence("loss out of reach, of a constant prediction's", out, "0", flow.step),
        ),
        remedies=(_remedy(kind, doubled, raw is not None),),
    )


def _remedy(kind: str, doubled: bool, raw: bool) -> Remedy:
    if raw:
        return _LOGARITHMS
    return _LOGITS if kind in _SCORES or doubled else WITHIN_RANGE


def _why(kind: str, doubled: bool, raw: bool, shut: bool, out: float | None) -> str:
    if raw:
        return "the loss expects logarithms of probabilities"
    if shut:
        return "it lets no gradient through at all"
    share = f": {min(out, 1):.0%} of a constant prediction's loss is out of reach" if out else ""
    if doubled:
        return f"the loss applies its own on top of it{share}"
    if kind in _SCORES:
        return f"the loss asks for scores without bounds{share}"
    return f"the targets lie outside of its bounds{share}"


def _closed(case: Case, flow: Flow) -> str | None:
    """The activation at the output, if a gradient comes to it and exactly none goes on.

    As a softmax over a single score, whose answer is one whatever goes in.
    """
    kinds = case.layers.layers
    affine = max((c.order for c in flow.calls if kinds[c.layer].kind.weighted), default=-1)
    for call in flow.calls:
        ends = call.grad_output, call.grad_input
        if call.order > affine and kinds[call.layer].kind is Kind.ACTIVATION and all(ends):
            came, went = (end.norm for end in ends if end is not None)
            small = call.input is not None and call.input.rms <= _SCORES_ARE
            if came > 0 and went == 0 and small:  # driven there by large scores it is SF108's
                return call.activation or kinds[call.layer].type
    return None


def _operation(loss: Mapping[str, Any]) -> str | None:
    return last_operation(loss.get("kind") or "", loss.get("operations") or [])


def _out_of_reach(loss: Mapping[str, Any]) -> float | None:
    floor, trivial = loss.get("floor"), loss.get("trivial") or loss.get("constant")
    return None if floor is None or not trivial else float(floor) / float(trivial)


RULE = Rule("SF403", "Output activation does not fit the loss", __doc__ or "", judge)
