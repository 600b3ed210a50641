"""The loss fell to what a constant answer gets, and stayed there.

**What.** The curve looks like learning: it falls fast, then flattens. But where it flattens is the
loss of a predictor that ignores its input: the network has learned the frequencies of the labels,
or the mean of the targets, and nothing else.

**Why.** Something keeps the input from the output: weights that decay to nothing, inputs that
hardly differ, units that died. Or there is nothing to learn: labels that do not belong to the
inputs, or that are noise by nature.

**Evidence.** The loss against that of the best constant on the run's own targets, to the end; how
the size of the weights, the difference between inputs and the difference between representations
stand at the instrumented steps; whether the run was better once. Other rules that explain it come
first; this one then follows them.

**Remedies.** By cause: less weight decay, inputs standardised feature by feature. Without one, look
at pairs of input and label, and try to learn a single batch by heart: whoever cannot has a broken
network, whoever can has labels that do not follow from the inputs.

**Thresholds.** *No better*: less than `_GAINED` (5 %) of the constant's loss is gone; the loss of a
last tenth of a run has a spread of that order. Above the constant's by up to `_SCATTER` (25 %) is
still the same: a variance from nine batches of 32 targets has a standard error of a tenth. Twice
the constant's and more (`_FAR`) is no scatter, but a run that has stopped where a guess would do
better. A run that was better by `_WAS` (10 %) before has lost it, whatever the labels are.
`_SHRUNK`: the median layer's weights have a tenth of their size or less; the signal through L
layers shrinks by 0.1^L then. `_ALIKE`: the deviation between samples is under 5 % of the input; the
curvature along their common mean is then 400 times that along what tells them apart, `1 /
spread^2`, and so is the number of steps. `_SAME` (0.999) against `_DIFFERED` (0.9):
representations, different at the beginning, that have become one. `_STEPS` (100): the last tenth of
a shorter run is made of fewer than ten losses. Without any of these the finding is advice and its
cause unknown: labels that are noise by nature look just the same, and are nobody's fault. Nor is it
said of a loss that still falls, by more than `_STILL` (1 % of the constant's) from the middle of
the run to its end: a tenth of a run on labels that were noise had a median that moved by 0.1 %, a
language model in its warm-up one that moved by 2.6 %.

**Source.** Miller & Madow's entropy for the constant's loss; LeCun et al. 1998, "Efficient
BackProp", section 4.3 (the mean of the inputs); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import Outcome, outcome
from surefoot.diagnosis.pace import pace, remaining
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Severity
from surefoot.remedies import prescribed
from surefoot.signals.flow import Flow

_GAINED, _SCATTER, _FAR, _WAS, _STILL, _STEPS = 0.05, 0.25, 1.0, 0.1, 0.01, 100
_SHRUNK, _ALIKE, _SAME, _DIFFERED = 0.1, 0.05, 0.999, 0.9
_DECAY = prescribed(
    "optimizer.weight_decay", None, "weights that decay faster than they learn end at zero"
)
_STANDARDISE = prescribed(
    "input.standardise",
    None,
    "what tells samples apart then has the size of one, and their common mean is gone",
)
_OVERFIT = prescribed(
    "data.one_batch",
    None,
    "a sound network learns a few samples by heart, whatever their labels are",
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge the loss's end, then what keeps the input from the output."""
    result = outcome(case)
    if not result.trivial or result.skill is None or result.short or result.diverged:
        return
    if result.searched:
        return  # between adversaries a constant's loss is a balance, and no standstill
    above = result.skill < -_FAR
    if case.facts.steps < _STEPS or result.skill >= _GAINED or -_FAR <= result.skill < -_SCATTER:
        return
    cause, why, evidence, remedy = _cause(case, result)
    if why is None and _still_falls(case, result):
        return
    if why is None and _no_weight_moves(case):
        why = "half of the weight matrices and more never moved at all"
    if why is None and above:
        why = "it has stopped falling where a guess would do better"
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=cause,
        severity=Severity.ADVICE if why is None else Severity.HARMFUL,
        first_step=_since(case, result),
        last_step=case.facts.steps - 1,
        confidence=0.85 if cause is not Cause.UNKNOWN else 0.5,
        sentence=(
            f"The loss ended at {result.final:.3g}, {'far above ' * above}what a constant "
            f"answer gets ({result.yardstick:.3g}): "
            + (why or "either the labels do not follow from the inputs, or these do not reach it")
            + "."
        ),
        evidence=(
            Evidence("loss gained on the trivial predictor, share", result.skill, "> 0.5"),
            Evidence("the same at the best time of the run", result.best_skill, ""),
            *evidence,
        ),
        remedies=(remedy,),
    )


def _since(case: Case, result: Outcome) -> int:
    """The step after the last whose loss was clearly better; 0 if none was."""
    series = case.get("loss")
    better = series.last[:, 0] < (1 - _WAS) * (result.yardstick or 0.0)
    good = np.flatnonzero(better)
    return int(series.steps[good[-1]]) + 1 if len(good) else 0


def _no_weight_moves(case: Case) -> bool:
    steps = pace(case)
    return steps is not None and steps.samples > 0 and steps.highest == 0


def _still_falls(case: Case, result: Outcome) -> bool:
    """Whether the second half of the run gained anything: a slow start is not a standstill."""
    losses = case.get("loss").last[:, 0].astype(float)
    losses = losses[np.isfinite(losses)]
    width = max(5, len(losses) // 10)
    middle = float(np.median(losses[len(losses) // 2 :][:width]))
    return (middle - (result.final or 0.0)) / (result.yardstick or 1.0) > _STILL


def _cause(case: Case, result: Outcome) -> tuple[Cause, str | None, tuple[Evidence, ...], Remedy]:
    """(cause, clause, evidence, remedy); no clause where nothing speaks for the network's fault."""
    size = remaining(case)
    if size is not None and size <= _SHRUNK:
        row = Evidence("size of the weights at the end over that at first", size, "0.5 to 3")
        why = f"the weights have shrunk to {size:.1%} of what they were"
        return Cause.WEIGHTS_TOO_SMALL, why, (row,), _DECAY
    live = [f for f in case.flows if not f.replayed]
    if live:
        first, last = live[0], live[-1]
        spread = next((c.spread for c in first.calls if c.spread is not None), None)
        if spread is not None and spread < _ALIKE:
            row = Evidence("deviation between inputs, as a share of them", spread, "> 0.3", 0)
            why = f"the inputs hardly differ, by {spread:.2g} of their size"
            return Cause.INPUT_SCALE, why, (row,), _STANDARDISE
        before, now = _alike(case, first), _alike(case, last)
        if before is not None and now is not None and before < _DIFFERED and now >= _SAME:
            row = Evidence("mean cosine of samples, last hidden layer", now, "< 0.95", last.step)
            why = "all inputs have come to look alike in the last hidden layer"
            return Cause.UNKNOWN, why, (row,), _OVERFIT
    if (result.best_skill or 0.0) >= _WAS:
        why = f"it was {result.best_skill:.0%} better once, and lost what it had learned"
        return Cause.UNKNOWN, why, (), _OVERFIT
    return Cause.UNKNOWN, None, (), _OVERFIT


def _alike(case: Case, flow: Flow) -> float | None:
    kinds = case.layers.layers
    hidden = [c for c in flow.calls if kinds[c.layer].kind.weighted and c.cosine is not None]
    return hidden[-2].cosine if len(hidden) > 1 else None


RULE = Rule("SF307", "No better than a constant", __doc__ or "", judge)
