"""GradScaler refuses one step after the other, and its scale collapses.

**What.** The optimizer hardly ever steps, without any error: the loss stands still, and the scale
on it, meant to be in the thousands, has fallen below one.

**Why.** GradScaler refuses a step whose gradient is not finite and halves its scale, on the
assumption that the scale was too large. Where the value is made by something else, an operation
that overflows or has no gradient there, halving never helps.

**Evidence.** The scale at every step, and the refused steps; one of them run again with every
operation watched, backward included, once the scale can no longer be to blame: the operation that
made the first value that is not finite, and its module.

**Remedies.** What the operation needs: its argument clamped, or the operation done in float32.
Another initial scale or growth interval does not help.

**Thresholds.** The scale counts as collapsed below `_COLLAPSED` (1): there a scaled gradient is
smaller than the true one, so an overflow is no longer the scale's doing; this is arithmetic and not
a choice. From the usual 2^16 it takes 17 refusals in a row, or more than one in 2000 steps for long
(GradScaler doubles its scale after so many). `_TIMES` (3) refusals below that level keep a scale
that the script itself began with below one, and the one or two stray batches after it, from
counting. The run is ill if it has not gained `_LEARNS` of the trivial predictor's loss.

**Source.** Micikevicius et al. 2018, "Mixed precision training"; torch.amp.GradScaler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.diagnosis.rules.nonfinite import explain, remedies
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity

_COLLAPSED, _TIMES, _LEARNS = 1.0, 3, 0.5


def judge(case: Case) -> Iterator[Finding]:
    """Judge the scale and the refusals under it."""
    series = case.get("loss_scaling")
    if series.high.shape[1] < 2 or case.facts.nonfinite_loss is not None:
        return  # a loss that is itself not finite is explained where it was made (SF201)
    scale, refused = series.last[:, 0], series.high[:, 1] > 0
    low = refused & (scale < _COLLAPSED)
    if np.count_nonzero(low) < _TIMES:
        return
    first = int(series.steps[np.flatnonzero(refused)[0]])
    culprit = _culprit(case, series.steps[low])
    cause, layer, why, evidence = Cause.UNKNOWN, None, "by what could not be seen", []
    if culprit is not None:
        cause, layer, why, evidence = explain(case, *culprit)
    share = float(refused.mean())
    poor = outcome(case).poor(_LEARNS) or share > 0.5
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.NONFINITE,
        cause=cause,
        layer=layer,
        severity=bad_severity(case) if poor else Severity.ADVICE,
        first_step=first,
        last_step=case.facts.steps - 1,
        confidence=0.5 if cause is Cause.UNKNOWN else 0.95,
        sentence=(
            f"GradScaler refused {share:.0%} of the steps and its scale fell to "
            f"{float(scale[low][-1]):.2g}, where it cannot be to blame: {why}; "
            f"{outcome(case).words()}."
        ),
        evidence=(
            Evidence("lowest loss scale", float(np.nanmin(scale)), "above 1"),
            Evidence("share of the steps that were refused", share, "under 1 in 2000, once begun"),
            *evidence,
        ),
        remedies=remedies(cause, layer),
    )


def _culprit(case: Case, low: np.ndarray) -> tuple[int, dict[str, Any], Mapping[str, Any]] | None:
    """(step, origin, loss) of a refused step that was run again and is not the scale's doing."""
    for flow in case.flows:
        if not flow.replayed or flow.origin is None:
            continue
        if flow.origin["where"] in ("forward", "input") or flow.step in low:
            return flow.step, flow.origin, flow.loss
    return None


RULE = Rule("SF203", "Loss scale collapses", __doc__ or "", judge)
