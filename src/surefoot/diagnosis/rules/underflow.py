"""Gradients are too small for float16: they are rounded to zero or to a few coarse steps.

**What.** The loss falls in float32 and stands still, or drifts, in half precision. Most elements of
the gradients are exactly zero, and the rest are small multiples of one and the same number.

**Why.** float16 holds nothing between zero and 2^-24, six parts in a hundred million; what is
smaller than half of that is flushed to zero. A mean over many elements, a small factor on the loss
or small errors bring gradients down there. GradScaler multiplies the loss, so that they are large
enough, and divides again before the step; it is missing, or its scale is too small.

**Evidence.** The gradient at each layer that computes in float16, in multiples of 2^-24: the root
mean square of what is not zero. It is small at all layers at once: where it is sound at the output
and fades on the way, the depth is to blame (SF101). And a loss that stays behind.

**Remedies.** GradScaler, or a larger initial scale; bfloat16, which has the range of float32. A
larger learning rate does not bring back what was rounded away.

**Thresholds.** A normal gradient with a root mean square of `_QUANTA` (4) steps of 2^-24 (`_STEP`)
loses `erf(1 / (8 sqrt(2)))`, a tenth of its elements, and the rest keep two bits; at one step it
loses four tenths. Measured on a six-layer network: 6 steps learned as in float32, 1.3 diverged. The
cause is the loss's scale and not the depth if no layer reaches `_SOUND` (64) steps, which a loss
scale of 2^10 brings to 2^16; and if at least `_LAYERS` (half) of the layers are below four. In a
run that has gained `_LEARNS` of the trivial predictor's loss nothing is said.

**Source.** Micikevicius et al. 2018, "Mixed precision training", section 3.2; IEEE 754 (binary16).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.remedies import prescribed
from surefoot.signals.flow import Call, Flow

_QUANTA, _SOUND, _LAYERS, _LEARNS = 4.0, 64.0, 0.5, 0.5
_STEP = 2.0**-24  # the smallest float16 above zero
_SCALER = prescribed(
    "amp.grad_scaler",
    None,
    "multiplies the loss so that float16 can hold its gradients, and divides before the step",
)
_BFLOAT16 = prescribed("dtype.bfloat16", None, "has the range of float32 and needs no loss scale")


def judge(case: Case) -> Iterator[Finding]:
    """Judge every live instrumented step; the first that shows it counts."""
    result = outcome(case)
    if not result.poor(_LEARNS):
        return
    for flow in case.flows:
        levels = [] if flow.replayed else _levels(case, flow)
        if not levels or max(levels) >= _SOUND:
            continue
        if np.mean(np.array(levels) < _QUANTA) >= _LAYERS:
            yield _finding(case, flow, levels)
            return


def _levels(case: Case, flow: Flow) -> list[float]:
    """Root mean square of the gradient's elements that are not zero, in steps of float16."""
    kinds = case.layers.layers
    calls = [
        c for c in flow.calls if c.dtype == "float16" and kinds[c.layer].kind.weighted and _came(c)
    ]
    return [_rms(c) / _STEP for c in calls]


def _came(call: Call) -> bool:
    """Whether a finite gradient came, other than none at all through units that are dead."""
    stats = call.grad_output
    return stats is not None and not stats.nonfinite and (call.frozen or 0.0) < 1.0


def _rms(call: Call) -> float:
    stats = call.grad_output
    if stats is None or stats.zeros >= stats.numel:
        return 0.0
    return float(stats.norm / (stats.numel - stats.zeros) ** 0.5)


def _finding(case: Case, flow: Flow, levels: list[float]) -> Finding:
    series = case.get("loss_scaling")
    at = np.flatnonzero(series.steps >= flow.step)
    scale = float(series.last[at[0], 0]) if len(at) else float("nan")
    scaled = np.isfinite(scale)
    largest = max(levels)
    size = f"{largest:.2g} times its smallest number" if largest else "nothing at all"
    with_it = f"GradScaler's scale of {scale:.3g} is too small" if scaled else "no GradScaler"
    return Finding(
        rule=RULE.id,
        pathology=Pathology.VANISHING,
        cause=Cause.DTYPE_UNDERFLOW,
        severity=Severity.HARMFUL,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.9,
        sentence=(
            f"What float16 leaves of the gradients is {size} at the best of {len(levels)} layers: "
            f"the rest is rounded to zero ({with_it}); {outcome(case).words()}."
        ),
        evidence=(
            Evidence("largest gradient of a layer, rms in steps of 2^-24", largest, "> 64", 0),
            Evidence("share of layers below 4 such steps", _share(levels), "0", flow.step),
            Evidence("loss scale", scale if scaled else None, "2^10 to 2^16", flow.step),
        ),
        remedies=(_SCALER, _BFLOAT16),
    )


def _share(levels: list[float]) -> float:
    return float(np.mean(np.array(levels) < _QUANTA))


RULE = Rule("SF204", "Gradients lost in half precision", __doc__ or "", judge)
