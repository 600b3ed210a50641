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

**Remedies.** Too small weights: Kaiming (ReLU) or Xavier (tanh) initialisation. A saturating
activation: ReLU or GELU with the gain that belongs to it. Deep networks: residual connections.
Clipping, warm-up or a larger learning rate do not help.

**Source.** Schoenholz et al. 2017 (growth chi_1 a layer); docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.growth import Growth, growth
from surefoot.diagnosis.rule import Rule, times
from surefoot.findings import Cause, Finding, Pathology, Severity

_SLOPE = -0.35  # decades a layer lost to the activation's slope; ReLU loses 0.15, a sigmoid 0.63


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first instrumented step."""
    found = growth(case, -1, 0.05)
    if found is None:
        return
    if found.severity is Severity.FATAL:  # what vanishes makes no NaN
        found = replace(found, severity=Severity.HARMFUL)
    cause = _cause(found)
    weights = cause is Cause.WEIGHTS_TOO_SMALL
    yield found.finding(
        RULE.id, Pathology.VANISHING, cause, _because(cause, found), by_weights=weights
    )


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
