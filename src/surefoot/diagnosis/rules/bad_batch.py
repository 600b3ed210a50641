"""A bad batch: one batch's gradient stands far out of what was normal before and after.

**What.** At one step the gradients of many layers jump by an order of magnitude or more and come
back (or the run never recovers from that one update).

**Why.** Something in that batch: a sample of a wrong scale, corrupt values, wrong labels.

**Evidence.** Per layer, the jump over the median of the last 64 steps in robust deviations; the
batch's own scale against that of its predecessors; the loss of that step, measured before its
update, against the steps before. A batch is blamed only if its input or its loss stands out too.

**Remedies.** Look at the batch; skip outlying steps or clip. A lower learning rate makes the rest
of the run worse and does not help.

**Source.** Robust deviations (median and MAD) of the log norm; docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.record.data import Event

_INPUT = 5.0  # times the usual scale of the input
_LOSS = 3.0  # times the usual loss
_ABSURD = 30.0  # times the usual loss, which no step of a sane length brings about at once
_AROUND = 32  # steps before that say what is usual


def judge(case: Case) -> Iterator[Finding]:
    """Judge the spike alarms."""
    bad = [(a, *_standing(case, a)) for a in case.alarms if a.detail.get("kind") == "spike"]
    blamed = [(a, i, j) for a, i, j in bad if i >= _INPUT or j >= _LOSS]
    if not blamed:
        return
    alarm, scale, loss = blamed[0]
    if scale < _INPUT and loss < _ABSURD and not _isolated(case, alarm):
        return
    severity = _severity(case, alarm, len(blamed))
    if severity is None:
        return
    detail = alarm.detail
    what = (
        f"its input is {scale:.3g}x the usual scale"
        if scale >= _INPUT
        else (f"its loss is {loss:.3g}x the usual one before the update")
    )
    more = f" ({len(blamed)} such batches)" if len(blamed) > 1 else ""
    factor = float(detail["factor"])
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.SPIKE,
        cause=Cause.BAD_BATCH,
        severity=severity,
        first_step=alarm.step,
        last_step=blamed[-1][0].step,
        confidence=0.95 if scale >= _INPUT else 0.75,
        sentence=(
            f"The batch of step {alarm.step}{more} makes gradients {factor:.3g}x as large as "
            f"usual in {detail['count']} parameters: {what}; {outcome(case).words()}."
        ),
        evidence=(
            Evidence("largest gradient jump over its median", factor, "< 8", alarm.step),
            Evidence("robust deviations (z)", float(detail["z"]), "< 5", alarm.step),
            Evidence("input scale over its median", scale, f"< {_INPUT:g}", alarm.step),
            Evidence("loss over its median", loss, f"< {_LOSS:g}", alarm.step),
        ),
        remedies=(prescriptions.SKIP_OUTLIER, prescriptions.CLIP),
    )


def _standing(case: Case, alarm: Event) -> tuple[float, float]:
    """(input scale, loss) of the alarm's step as multiples of the steps before it."""
    inputs, losses = case.get("input"), case.get("loss")
    scale = _multiple(inputs.steps, inputs.high[:, :1], alarm.step)
    if inputs.high.shape[1] > 1:
        scale = max(scale, _multiple(inputs.steps, inputs.high[:, 1:2], alarm.step))
    return scale, _multiple(losses.steps, losses.high, alarm.step)


def _multiple(steps: np.ndarray, values: np.ndarray, step: int) -> float:
    at = np.flatnonzero(steps >= step)
    if not len(at) or at[0] == 0:
        return 1.0
    before = values[max(0, at[0] - _AROUND) : at[0], 0].astype(float)
    before = before[np.isfinite(before)]
    now = float(values[at[0], 0])
    if not len(before) or not np.median(before) > 0 or np.isnan(now):
        return 1.0
    # A loss near zero makes any batch look bad: the usual spread counts as well as the level.
    usual = max(float(np.median(before)), float(np.quantile(before, 0.9)))
    return now / usual


def _isolated(case: Case, alarm: Event) -> bool:
    """Whether the steps just before were quiet: a jump out of a calm, not the end of a climb."""
    losses = case.get("loss")
    at = np.flatnonzero(losses.steps >= alarm.step)
    if not len(at):
        return False
    before = losses.high[max(0, at[0] - _AROUND) : at[0], 0].astype(float)
    before = before[np.isfinite(before)]
    if len(before) < 8:
        return False
    recent, usual = np.median(before[-3:]), np.quantile(before, 0.9)
    earlier = any(0 < alarm.step - a.step <= 10 for a in case.alarms)
    return bool(recent < 1.5 * usual) and not earlier


def _severity(case: Case, alarm: Event, count: int) -> Severity | None:
    """Harmful if the loss stayed up for long, or such batches return; advice otherwise."""
    result = outcome(case)
    if result.diverged or result.poor(0.1):
        return bad_severity(case)
    losses = case.get("loss")
    at = np.flatnonzero(losses.steps >= alarm.step)[0]
    before = losses.last[max(0, at - _AROUND) : at, 0].astype(float)
    after = losses.last[at + 1 : at + 1 + _AROUND, 0].astype(float)
    usual = float(np.nanquantile(before, 0.9)) if np.isfinite(before).any() else np.inf
    worse = int((after > 1.3 * usual).sum())
    if worse >= 5 or count >= 3:
        return Severity.HARMFUL
    return Severity.ADVICE


RULE = Rule("SF202", "Bad batch", __doc__ or "", judge)
