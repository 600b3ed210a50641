"""Gradients vanish on the way from the output to the first layers.

**What.** At each layer on the way back the gradient shrinks by a factor, and over the depth the
factors multiply, until the first layers receive too little to learn from.

**Why.** A layer passes on the gradient times its weights times the slope of its activation. If that
product is below one at every layer, depth makes it vanish. A sigmoid's slope is at most 1/4, so it
vanishes even where nothing saturates; torch's default initialisation of a linear layer with ReLU
keeps 0.41 of it.

**Evidence.** The decades lost between the last and the first interior layer, split into the part of
the weights and of the activation; the loss against a constant prediction. A network that learns all
the same gets advice at most.

**Remedies.** Too small weights: brought to the gain of their activation, or drawn anew (Kaiming for
ReLU, Xavier for tanh). A saturating activation: ReLU with the gain that belongs to it. Deep
networks: residual connections. Clipping, warm-up or a larger learning rate do not help.

**Thresholds.** How many decades matter, and with what outcome, is the same for all rules on growth:
0.87, 1.3 and 2 decades are four, six and nine depth scales. What vanishes over all layers together,
by less than 2 decades, is not held against a run of fewer than 150 steps, nor by less than 4
against one of fewer than 48: a third of the healthy trainings of this kind have gained next to
nothing at some time by then, and all learn. A layer takes part if it shrinks the gradient by
`_PART` (0.05 decades, 12 %): batch norm with ReLU has 0.083. The activation is to blame rather than
the weights if it takes more than they do, and more than `_SLOPE` (-0.376 decades): halfway between
`log10(1/2) / 2 = -0.151`, what a ReLU takes and critical weights make up for, and `log10(1/4) =
-0.602`, what a sigmoid takes at the very least, for no slope of it is above 1/4. A GELU or SiLU
takes 0.17 at a scale of one and 0.30 where the signal has faded: there the weights are at fault.
The table of evidence gives for each part what theory expects at the scale measured. A loss of
`_NOTHING` (-20) decades at one layer is none that slopes and weights make up: the gradient behind
it is exactly zero, and where ReLU units are dead that is their doing (SF105). Where less than
`_CRITICAL` (0.1) decades a layer are missing, the weights have four fifths of the right size: if
such a network is deep enough to collapse, the depth is at fault (SF104). Below `_MILD` (2) decades
in all most networks learn, if slowly: steps that are proved too long, or as long as the weights
(`_OWN_SIZE`), or an optimizer that leaves out `_UNHELD` (half) of them, are then the reason why one
does not. A network without a depth to speak of may lose the gradient inside a single module:
`_SWALLOWED` (5 decades) is a hundred times what a sound layer of ten thousand inputs spreads it by,
in a run that gained less than `_FRUITLESS` (a tenth). Weights inside of it whose gain is below
`_WEAK` (0.3, half of torch's default) are then to blame, and a gate or a slope otherwise. And where
not even the fastest parameter moves by `_SHORT` (3e-5) a step, it is no matter of depth: the last
layer receives the whole gradient, unless the signal that reaches it has faded by as much (`_MILD`).

**Source.** Schoenholz et al. 2017 (growth chi_1 a layer); docs/thresholds.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.forensics import step_to_blame
from surefoot.diagnosis.growth import Growth, growth
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.rule import Rule, times
from surefoot.diagnosis.rules.collapsed import collapsed_calls
from surefoot.diagnosis.rules.dead import dead_calls
from surefoot.diagnosis.rules.left_out import left_out
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.signals.flow import Call, Flow

_PART = 0.05  # decades
_CRITICAL = 0.1  # decades a layer: weights of four fifths of the right size
_SHORT, _OWN_SIZE = 3e-5, 1.0  # of the weights in a step
_UNHELD = 0.5  # of the weights in no optimizer
_MILD = 2.0  # decades in all: most networks with fewer learn, if slowly
_WEAK = 0.3  # gain of weights that are too small rather than shut off
_SWALLOWED, _FRUITLESS = 5.0, 0.1  # decades inside one module; of the constant's loss gained
_NOTHING = -20.0  # decades at one layer: the gradient behind it is exactly zero
# Decades a layer lost to the slope: halfway from ReLU's -0.151 to a sigmoid's best, -0.602.
_SLOPE = (math.log10(0.5) / 2 + math.log10(0.25)) / 2


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    yield from _zeros(case)
    found = growth(case, -1, _PART)
    if found is None:
        yield from _swallowed(case)
        return
    if _dead(case, found) or _mild(case, found) or _by_depth(case, found):
        return
    if found.severity is Severity.FATAL:  # what vanishes makes no NaN
        found = replace(found, severity=Severity.HARMFUL)
    cause = _cause(found)
    weights = cause is Cause.WEIGHTS_TOO_SMALL
    yield found.finding(
        RULE.id, Pathology.VANISHING, cause, _because(cause, found), by_weights=weights
    )


def _dead(case: Case, found: Growth) -> bool:
    """Whether nothing at all is left of it behind a ReLU whose units are dead: SF105 tells that."""
    steepest = min(s.step for s in found.seen.stages[:-1])
    return case.first is not None and steepest < _NOTHING and bool(dead_calls(case, case.first))


def _mild(case: Case, found: Growth) -> bool:
    """Whether networks learn with so little loss of gradient, and the steps are at fault.

    Proved too long, as long as the weights themselves, taken with a part of them only, or so short
    that not even the last layer, which receives the whole gradient, gets anywhere.
    """
    steps = pace(case)
    if steps is not None and steps.samples and steps.fastest < _SHORT and not _faded(case):
        return True
    long = steps is not None and max(steps.early, steps.swift) >= _OWN_SIZE
    other = long or step_to_blame(case) is not None or left_out(case) >= _UNHELD
    return not found.lone and found.decades < _MILD and other


def _faded(case: Case) -> bool:
    """Whether the signal fades as well, so that the last layer has next to nothing to learn from.

    Its own gradient is the product of the two, and small for the same reason.
    """
    kinds, flow = case.layers.layers, case.first
    calls = [c for c in flow.calls if kinds[c.layer].kind.weighted] if flow is not None else []
    ends = [c.input.rms for c in (calls[:1] + calls[-1:]) if c.input is not None]
    return len(ends) == 2 and ends[1] < 10**-_MILD * ends[0]


def _by_depth(case: Case, found: Growth) -> bool:
    """Whether the weights are nearly right, and the depth collapses: SF104 tells that."""
    nearly = not found.lone and abs(found.seen.per_layer) < _CRITICAL
    return nearly and bool(collapsed_calls(case))


def _zeros(case: Case) -> Iterator[Finding]:
    """Matrices of zeros behind one another: no gradient is left for a single weight.

    One of them alone is often meant (a head, the end of a branch): it learns from what goes in.
    """
    flow, result = case.first, outcome(case)
    kinds = case.layers.layers
    calls = [c for c in flow.calls if kinds[c.layer].kind.weighted] if flow is not None else []
    empty = [c for c in calls if c.weight_norm == 0]
    if flow is None or len(empty) < 2 or any(map(_learns, calls)) or not result.poor(0.25):
        return
    name = case.layers.title(empty[0].layer)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.VANISHING,
        cause=Cause.WEIGHTS_TOO_SMALL,
        layer=name,
        victims=tuple(case.layers.title(c.layer) for c in calls if c is not empty[0]),
        severity=Severity.HARMFUL,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.97,
        sentence=(
            f"All weights of {name} and {len(empty) - 1} more are zero, and no weight at all "
            f"receives a gradient; {result.words()}."
        ),
        evidence=(Evidence("layers whose weights are all zero", len(empty), "0 or 1", flow.step),),
        remedies=(prescriptions.aimed(prescriptions.KAIMING, name),),
    )


def _swallowed(case: Case) -> Iterator[Finding]:
    """One module that lets next to nothing of the gradient through, as a gate that is shut."""
    flow, result = case.first, outcome(case)
    if flow is None or result.untrained or not (result.poor(_FRUITLESS) or result.unmoved):
        return
    shut = [
        c for c in flow.calls if not c.identity and _lost(c) >= _SWALLOWED and c.weight_norm != 0
    ]
    if not shut or dead_calls(case, flow):
        return
    call = max(shut, key=lambda c: (c.depth, _lost(c)))
    name, decades = case.layers.title(call.layer), _lost(call)
    gains = [c.gain for c in _inside(flow, call) if c.weight_norm and c.weight_rows]
    small = bool(gains) and float(np.median(gains)) < _WEAK
    cause = Cause.WEIGHTS_TOO_SMALL if small else Cause.SATURATING_ACTIVATION
    why = "its weights are too small" if small else "something inside of it is shut"
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.VANISHING,
        cause=cause,
        layer=name,
        severity=Severity.HARMFUL,
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.75,
        sentence=(
            f"Inside {name} the gradient shrinks to 1/{times(decades)[:-1]} of what comes to it: "
            f"{why}; {result.words()}."
        ),
        evidence=(Evidence("decades lost inside the module", decades, "under 2", flow.step),),
        remedies=prescriptions.for_depth(cause, name, 1, None),
    )


def _lost(call: Call) -> float:
    """Decades by which the gradient shrinks from a call's output to its input, by element."""
    came, went = call.grad_output, call.grad_input
    if came is None or went is None or not came.rms > 0:
        return 0.0
    return math.log10(came.rms / max(went.rms, came.rms * 10**_NOTHING))


def _inside(flow: Flow, call: Call) -> list[Call]:
    """A call and those that it made itself."""
    after = [c for c in flow.calls if c.order > call.order]
    end = next((c.order for c in after if c.depth <= call.depth), len(flow.calls))
    return [call, *(c for c in after if c.order < end)]


def _learns(call: Call) -> bool:
    """Whether the weights of this call receive a gradient: the product of both its ends."""
    ends = call.input, call.grad_output
    return all(end is not None and end.norm > 0 for end in ends)


def _cause(found: Growth) -> Cause:
    stages = [found.stage] if found.lone else list(found.seen.stages[:-1])
    slope = float(np.median([s.activation for s in stages]))
    weights = float(np.median([s.weights for s in stages]))
    if not found.seen.residual and slope < _SLOPE and slope < weights:
        return Cause.SATURATING_ACTIVATION
    return Cause.WEIGHTS_TOO_SMALL


def _because(cause: Cause, found: Growth) -> str:
    if cause is not Cause.SATURATING_ACTIVATION:
        return "the weights are too small to pass it on"
    stages = found.seen.stages
    slope = float(np.median([s.activation for s in stages[:-1]]))
    # A module shared by all layers is only seen at its first call.
    named = [found.stage.function, *(s.function for s in stages), "activation"]
    name = next(name for name in named if name)
    return f"the slope of the {name} lets only 1/{times(slope)[:-1]} of it through"


RULE = Rule("SF101", "Vanishing gradients", __doc__ or "", judge)
