"""The gradients are shattered: what they say of one input says nothing about its neighbour.

**What.** The gradient has a sound size, but at a point one per cent beside a sample it points
somewhere else: along the input it looks like white noise. A step that helps one input is blind to
the next.

**Why.** Each layer turns the gradient by a little more than it pulls the inputs together. Batch
normalisation without skip connections does it at any weights, tanh with weights beyond the edge of
chaos as well. A deep plain ReLU network without normalisation does not shatter: its representations
collapse instead (SF104).

**Evidence.** The mean cosine between the gradient at each sample and at a point beside it, for a
random combination of outputs; the value below which it cannot be told from white noise; the same
along the depth. In a run, the loss must stay behind as well.

**Remedies.** Residual connections around the normalised blocks; a looks-linear initialisation;
weights at the edge of chaos for tanh. Clipping and another learning rate do not help.

**Thresholds.** Sound networks stay above 0.82, and above 0.95 after twenty steps. What shattering
costs was measured by ripples in the activation that leave the gradient's size alone
(docs/papers.md): with Adam the loss was 0.12 at a coherence of 0.99, 0.12 at 0.56, 0.19 at 0.26,
0.27 at 0.04 and 0.77 at 0.01. So harm begins below `_SHATTERED` (0.3), and `_DOUBTFUL` (0.5) is
worth knowing. White noise gives `4.4 / sqrt(d B)` at most for d directions and B samples: thirty
white networks had a standard deviation of 1.45 in that unit and a largest value of 3.45. In a run
that has gained `_LEARNS` (0.5) of the trivial predictor's loss nothing is said, nor where no step
moved the weights by `_SHORT` (3e-5).

**Source.** Balduzzi et al. 2017, "The shattered gradients problem"; docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.profile import first_profile
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.layers import Kind
from surefoot.probes.shattering import Shattering

_SHATTERED, _DOUBTFUL, _LEARNS = 0.3, 0.5, 0.5
_SHORT = 3e-5  # of the weights in a step


def judge(case: Case) -> Iterator[Finding]:
    """Judge the latest reliable probe: a network that learns mends itself within some steps."""
    seen = [(step, s) for step, s in case.shattering if s.reliable]
    result = outcome(case)
    if not seen or not result.poor(_LEARNS) or result.diverged:
        return
    steps = pace(case)
    if steps is not None and 0 < steps.highest < _SHORT:
        return  # a step that hardly moves anything does not tell what its gradient is worth
    step, probe = seen[-1]
    severity = _severity(case, probe)
    if severity is None:
        return
    cause, depth = _cause(case), sum(x.kind.weighted for x in case.layers.layers)
    start = _origin(probe)
    where = f" from {start} down" if start else ""
    like = "as white noise would" if probe.white else "where sound networks keep 0.8 or more"
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.SHATTERED,
        cause=cause,
        layer=start,
        victims=tuple(name for name, value in probe.curve if value < 0.5 and name != start),
        severity=severity,
        first_step=step,
        last_step=max(case.facts.steps - 1, step),
        confidence=0.9 if probe.white else 0.75,
        sentence=(
            f"The gradient at a sample and one per cent beside it agree by {probe.coherence:.2f}"
            f"{where}, {like}: a step learned on one input says nothing about the next; "
            f"{result.words()}."
        ),
        evidence=_evidence(case, step, probe),
        remedies=prescriptions.for_depth(cause, prescriptions.pattern(_names(probe)), depth, None),
    )


def _severity(case: Case, probe: Shattering) -> Severity | None:
    if probe.coherence < _SHATTERED:
        return bad_severity(case)
    return Severity.ADVICE if probe.coherence < _DOUBTFUL else None


def _cause(case: Case) -> Cause:
    """By what the network is made of: each of them turns gradients in its own way."""
    flow, profile = case.first, first_profile(case)
    called = [case.layers.layers[c.layer].kind for c in flow.calls] if flow else []
    if Kind.RECURRENT in called:
        return Cause.RECURRENT_WEIGHTS
    skips = profile is not None and profile.residual
    if Kind.NORMALIZATION in called and not skips:
        return Cause.NORMALIZATION_WITHOUT_SKIP
    grows = profile is not None and profile.growth > 0
    return Cause.WEIGHTS_TOO_LARGE if skips or grows else Cause.DEPTH_WITHOUT_SKIP


def _origin(probe: Shattering) -> str | None:
    """The layer nearest to the output at which the gradients no longer agree."""
    return next((name for name, value in reversed(probe.curve) if value < 0.5), None)


def _names(probe: Shattering) -> list[str]:
    return [name for name, _ in probe.curve] or ["*"]


def _evidence(case: Case, step: int, probe: Shattering) -> tuple[Evidence, ...]:
    flow = case.first
    cosines = [c.cosine for c in flow.calls if c.cosine is not None] if flow else []
    rows = [
        Evidence("coherence of neighbouring gradients", probe.coherence, "> 0.8", step),
        Evidence("coherence of white noise, at most", probe.limit, "", step),
    ]
    if len(cosines) > 1:
        collapse = "mean cosine of samples, last hidden layer"
        rows.append(Evidence(collapse, cosines[-2], "< 0.95 (else collapsed)", step))
    return tuple(rows)


RULE = Rule("SF107", "Shattered gradients", __doc__ or "", judge)
