"""A bad batch: one batch's gradient stands far out of what was normal before and after.

**What.** At one step the gradients of many layers jump by an order of magnitude or more and come
back (or the run never recovers from that one update).

**Why.** Something in that batch: a sample of a wrong scale, corrupt values, wrong labels.

**Evidence.** Per layer, the jump over the median of the last 64 steps in robust deviations; the
batch's own scale, and its loss before the update, against the steps before: a batch is blamed only
if one of these two stands out. The step tried again on copies: the gradient of this batch against
that of another batch at the very same weights, which clears the batch where the other's is as
large, and which samples hold it, by their place in the batch and in the data set. Where that could
not be tried, the jump must come out of a calm. Of several ranks each compares its own batch with
its own earlier ones; those that stand out are named, unless all do.

**Remedies.** Look at the batch; skip outlying steps or clip. A lower learning rate makes the rest
of the run worse and does not help.

**Thresholds.** The gate asks for six deviations and a factor of eight; 3 of 88 healthy trainings
tripped it, and no batch of theirs stood out by its loss or input. `_INPUT` (5): the scale of a
batch of n numbers scatters by `1 / sqrt(2 n)`, so that five times the median of the last `_AROUND`
(32) batches comes from something in it. `_LOSS` (3): the planted bad batches had more than a
hundred times the usual loss, a batch of sound samples stays within its spread. A loss also jumps
after a step that was too long: the trial tells the two apart, and without one the steps before must
have been calm, or the loss be beyond `_ABSURD` (30); both, where the step itself is proved too long
and none before it, and no step moved the weights by `_SANE` (a tenth). Nor is a batch blamed,
unless it is proved guilty, that comes within `_NEAR` (4) steps of one that moved a matrix by
`_LEAP` (half). Such a batch is harmful if the loss stays a third above what was usual for five
steps of the next `_AROUND`, or if there are three such batches.

**Source.** Robust deviations (median and MAD) of the log norm; docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.forensics import (
    batch_rows,
    batch_to_blame,
    in_the_wake,
    samples_in_words,
    too_long,
    tried,
)
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.ranks import (
    Local,
    in_words,
    locals_of,
    multiples_in_words,
    standing_out,
)
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.record.data import Event
from surefoot.signals.forensics import Inquiry

_INPUT = 5.0  # times the usual scale of the input
_LOSS = 3.0  # times the usual loss
_ABSURD = 30.0  # times the usual loss, which no step of a sane length brings about at once
_LEAP, _NEAR = 0.5, 4  # of a matrix in a step; steps before
_SANE = 0.1  # of the weights in a step, at most
_AROUND = 32  # steps before that say what is usual


def judge(case: Case) -> Iterator[Finding]:
    """Judge the spike alarms."""
    blamed = [b for a in case.alarms if a.detail.get("kind") == "spike" for b in _blamed(case, a)]
    if not blamed:
        return
    first = blamed[0]
    evident = first.proven or first.scale >= _INPUT or first.loss >= _ABSURD
    if not evident and not _isolated(case, first.alarm):
        return
    severity = _severity(case, first.alarm, len(blamed))
    if severity is not None:
        yield _finding(case, blamed, severity)


@dataclass(frozen=True, slots=True)
class _Blamed:
    """A spike whose batch is to blame. scale, loss: as multiples of what was usual before it;
    inquiry: what came of trying the step again; proven: whether that settled it; ranks: those whose
    batch it is, of all in `told`."""

    alarm: Event
    scale: float
    loss: float
    inquiry: Inquiry | None
    proven: bool
    ranks: list[Local]
    told: list[Local]


def _blamed(case: Case, alarm: Event) -> Iterator[_Blamed]:
    """The alarm, if its batch is to blame."""
    scale, loss = standing(case, alarm.step)
    inquiry = tried(case, alarm.step)
    told = locals_of(alarm)
    ranks = standing_out(told, lambda one: one.scale >= _INPUT or one.loss >= _LOSS)
    if ranks:
        worst = max(ranks, key=lambda one: max(one.scale / _INPUT, one.loss / _LOSS))
        scale, loss, inquiry = worst.scale, worst.loss, worst.inquiry
    guilty = batch_to_blame(inquiry)
    if guilty is None and in_the_wake(case, alarm.step) and not _out_of_the_blue(case, alarm, loss):
        return  # not tried, right after a step that was proved to be too long
    if guilty is None and _after_a_leap(case, alarm.step):
        return
    if (scale >= _INPUT or loss >= _LOSS) and guilty is not False:
        yield _Blamed(alarm, scale, loss, inquiry, guilty is True, ranks, told)


def _finding(case: Case, blamed: list[_Blamed], severity: Severity) -> Finding:
    first = blamed[0]
    alarm, inquiry, at = first.alarm, first.inquiry, first.alarm.step
    more = f" ({len(blamed)} such batches)" if len(blamed) > 1 else ""
    factor = float(alarm.detail["factor"])
    return Finding(
        rule=RULE.id,
        pathology=Pathology.SPIKE,
        cause=Cause.BAD_BATCH,
        severity=severity,
        first_step=at,
        last_step=blamed[-1].alarm.step,
        confidence=0.97 if first.proven else 0.95 if first.scale >= _INPUT else 0.75,
        sentence=(
            f"The batch of step {at}{_whose(first)}{more} makes gradients {factor:.3g}x as large "
            f"as usual in {alarm.detail['count']} parameters: {_because(first)}; "
            f"{outcome(case).words()}."
        ),
        evidence=(
            Evidence("largest gradient jump over its median", factor, "< 8", at),
            Evidence("robust deviations (z)", float(alarm.detail["z"]), "< 5", at),
            Evidence("input scale over its median", first.scale, f"< {_INPUT:g}", at),
            Evidence("loss over its median", first.loss, f"< {_LOSS:g}", at),
            *_rank_rows(first),
            *(batch_rows(inquiry) if inquiry is not None else ()),
        ),
        remedies=(prescriptions.SKIP_OUTLIER, prescriptions.CLIP),
    )


def _whose(blamed: _Blamed) -> str:
    return f" on {in_words(blamed.ranks)}" if blamed.ranks else ""


def _rank_rows(blamed: _Blamed) -> tuple[Evidence, ...]:
    """Each rank's batch beside those of the others."""
    if not blamed.ranks:
        return ()
    of, limit = ("scale", _INPUT) if blamed.scale >= _INPUT else ("loss", _LOSS)
    name = f"{'input scale' if of == 'scale' else 'loss'} over its median on each rank"
    words = multiples_in_words(blamed.told, of)
    return (Evidence(name, words, f"< {limit:g}", blamed.alarm.step),)


def _because(blamed: _Blamed) -> str:
    inquiry = blamed.inquiry
    if blamed.scale >= _INPUT:
        words = f"its input is {blamed.scale:.3g}x the usual scale"
    else:
        words = f"its loss is {blamed.loss:.3g}x the usual one before the update"
    if inquiry is not None and (inquiry.samples or inquiry.outliers):
        words += f" ({samples_in_words(inquiry)})"
    if blamed.proven and inquiry is not None:
        words += f"; another batch at the same weights gives 1/{inquiry.ratio:.3g} of it"
    return words


def standing(case: Case, step: int) -> tuple[float, float]:
    """(input scale, loss) of a step as multiples of the steps before it."""
    inputs, losses = case.get("input"), case.get("loss")
    scale = _multiple(inputs.steps, inputs.high[:, :1], step)
    if inputs.high.shape[1] > 1:
        scale = max(scale, _multiple(inputs.steps, inputs.high[:, 1:2], step))
    return scale, _multiple(losses.steps, losses.high, step)


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


def _after_a_leap(case: Case, step: int) -> bool:
    """Whether one of the last steps, as far as they were sampled, moved the weights by half."""
    ratios, matrices = case.get("update_ratio"), case.weight_matrices()
    if not len(ratios) or ratios.high.shape[1] != len(matrices):
        return False
    near = (ratios.steps >= step - _NEAR) & (ratios.steps < step)
    moved = ratios.high[near][:, matrices].astype(float)
    return moved.size > 0 and bool(np.nanmax(moved, initial=0.0) >= _LEAP)


def _out_of_the_blue(case: Case, alarm: Event, loss: float) -> bool:
    """Whether steps of a sane length, in a calm, were met by a loss that none of them can make."""
    steps = pace(case)
    sane = steps is not None and steps.highest < _SANE
    earlier = any(too_long(i) for i in case.inquiries if i.step < alarm.step)
    return sane and loss >= _ABSURD and not earlier and _isolated(case, alarm)


def blamed_since(case: Case) -> int | None:
    """The step of the first batch that is to blame, None without one."""
    for alarm in case.alarms:
        if alarm.detail.get("kind") == "spike" and any(True for _ in _blamed(case, alarm)):
            return alarm.step
    return None


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
