"""Gradients explode or vanish through time, inside a recurrent layer.

**What.** The gradient of the last hidden state with respect to earlier ones grows or shrinks at
every time step. Growing: a single long sequence throws the weights away. Shrinking: what happened
long ago cannot be learned.

**Why.** The Jacobian of one step, recurrent weights times the activation's slope, is multiplied
once for every time step.

**Evidence.** The Jacobian product itself, measured by stepping the layer through the run's own
first batch. The largest singular value alone is no evidence: the bound it gives can be loose by
many orders of magnitude. Vanishing over time is normal for a network that needs no long memory, so
it is said only of a run that does not learn.

**Remedies.** Exploding: clip the norm, orthogonal recurrent weights. Vanishing: LSTM or GRU with a
forget-gate bias of 1, orthogonal recurrent weights.

**Thresholds.** Growth from `_GROWS` (0.87 decades, four depth scales) on is judged with the outcome
as growth over depth is. A gradient that fades is normal; it is called a fault below `_FADES` (-4
decades), where the first input has a ten-thousandth of the last one's weight, in a run that has
gained less than `_NOTHING` (5 %) of the trivial predictor's loss, or less than `_HALF` if the
fading is `_DRASTIC` (0.6 decades a step: what happened two steps ago has a sixteenth of the
weight). The step size must be none of the reasons: ratios of update to weight within `_EARLY` (0.3)
at first, `_TYPICAL` (0.1) later and above `_LEAST` (3e-5), as in the rules on learning rates. A
cell by hand is seen as an affine layer that is called `_LOOP` (8) times or more in a pass, can take
in what it gave out, and whose gradient goes the same way at `_STEADY` (0.8) of the calls: of eight
calls that mean nothing, so many do so by chance in one of sixteen. A loss that is read at every one
of T calls adds up to T times as much at the first: that much growth is taken away. Healthy
recurrent trainings lay between -1.3 and -1.6 decades for images read row by row, and at -6.3 for a
language model that had gained a quarter: the fading alone is no evidence, and nor is the loss of a
run of less than four dozen steps, in which a sound network of characters had gained nothing.

**Source.** Pascanu, Mikolov & Bengio 2013, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.rule import Rule, gauge_severity, times
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.layers import Kind
from surefoot.signals.flow import Call, Flow

_GROWS, _FADES, _DRASTIC = 0.87, -4.0, 0.6
_NOTHING, _HALF = 0.05, 0.5
_LOOP, _STEADY = 8, 0.8
_EARLY, _TYPICAL, _LEAST = 0.3, 0.1, 3e-5


def judge(case: Case) -> Iterator[Finding]:
    """Judge the recurrent layers of the first instrumented step."""
    flow = case.first
    if flow is None:
        return
    result = outcome(case)
    for layer, logs in _profiles(case, flow).items():
        growth = logs[0] - logs[-1]
        if growth >= _GROWS:
            severity = gauge_severity(case, growth)
            pathology = Pathology.EXPLODING
        elif _forgets(case, growth, len(logs)):
            severity, pathology = Severity.HARMFUL, Pathology.VANISHING
        else:
            continue
        if severity is None:
            continue
        name = case.layers.title(layer)
        verb = "grow" if growth > 0 else "shrink"
        word = "large" if growth > 0 else "small"
        yield Finding(
            rule=RULE.id,
            pathology=pathology,
            cause=Cause.RECURRENT_WEIGHTS,
            layer=name,
            severity=severity,
            first_step=flow.step,
            last_step=case.facts.steps - 1,
            confidence=float(np.clip(0.5 + 0.1 * abs(growth), 0.6, 0.95)),
            sentence=(
                f"Through time in {name}, gradients {verb} {times(growth)} over the sequence: the "
                f"recurrent weights are too {word}; {result.words()}."
            ),
            evidence=(
                Evidence(
                    "growth of d h_last / d h_first, decades", growth, "-4 to 0.87", flow.step
                ),
            ),
        )


def _forgets(case: Case, growth: float, points: int) -> bool:
    """Vanishing over time, in a run that stands still although its steps are of the right size."""
    result, steps = outcome(case), pace(case)
    if result.young or result.diverged or steps is None:
        return False
    if steps.early >= _EARLY or steps.typical >= _TYPICAL or steps.fastest < _LEAST:
        return False
    drastic = growth <= -_DRASTIC * points
    return growth <= _FADES and result.poor(_HALF if drastic else _NOTHING)


def _profiles(case: Case, flow: Flow) -> dict[int, list[float]]:
    """log10 gradient norms over time, oldest first, for each recurrent layer."""
    found: dict[int, list[float]] = {}
    cells: dict[int, list[float]] = {}
    for call in flow.calls:
        if call.through_time is not None and len(call.through_time) >= 3:
            found.setdefault(call.layer, call.through_time)
        elif call.grad_output is not None and (_cell(case, call) or _square(case, call)):
            cells.setdefault(call.layer, []).append(np.log10(max(call.grad_output.norm, 1e-60)))
    for layer, logs in cells.items():
        # A cell called in a loop: its calls are the time steps themselves.
        kind = case.layers.layers[layer].kind
        if len(logs) >= _LOOP and (kind is Kind.RECURRENT or _steady(logs)):
            found.setdefault(layer, _without_sum(logs))
    return found


def _without_sum(logs: list[float]) -> list[float]:
    """Without what a loss read at every call adds up to: T terms at the first of T calls."""
    terms = np.log10(np.arange(len(logs), 0, -1))
    growing = logs[0] > logs[-1]
    return (np.array(logs) - terms).tolist() if growing else logs


def _cell(case: Case, call: Call) -> bool:
    return case.layers.layers[call.layer].kind is Kind.RECURRENT


def _square(case: Case, call: Call) -> bool:
    """Whether what comes out of an affine layer could go into it again, alone or beside another."""
    ends = call.input, call.output
    weighted = case.layers.layers[call.layer].kind.weighted
    return weighted and all(ends) and ends[0].numel >= ends[1].numel  # type: ignore[union-attr]


def _steady(logs: list[float]) -> bool:
    """Whether the gradient goes one way from call to call, as through a recurrence by hand."""
    steps = np.diff(logs)
    return float(np.mean(steps * (logs[-1] - logs[0]) > 0)) >= _STEADY


RULE = Rule("SF103", "Exploding or vanishing through time", __doc__ or "", judge)
