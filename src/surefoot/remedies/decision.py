"""The decision table: from a finding's cause to the remedies to try, in order, and to those that
would not help, with the reason.

The rule that found the fault knows its target and its numbers, and prescribes first; the table adds
what else the book has. Source: REMEDIES in the design records: trials on a hundred layers and
published results; each row's reasons are with the remedies themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from surefoot.findings import Cause, Finding, Remedy

MOST = 6  # candidates of one finding

_BF = "dtype.bfloat16"
_INITIAL = ("init.rescale", "init.kaiming_normal", "residual.rezero", "init.default")
_Row = str | tuple[str, Mapping[str, Any]]  # a name, or a name with parameters
# After what the rule prescribes.
_NEXT: dict[Cause, tuple[_Row, ...]] = {
    Cause.WEIGHTS_TOO_LARGE: _INITIAL,
    Cause.WEIGHTS_TOO_SMALL: _INITIAL,
    Cause.SATURATING_ACTIVATION: ("activation.relu", "residual.rezero", "init.two_way"),
    Cause.UNBOUNDED_ACTIVATION: ("normalization.layer_norm", "init.two_way", "residual.pre_norm"),
    Cause.DEAD_RELU: ("init.two_way", "init.default", "activation.leaky_relu"),
    Cause.DEPTH_WITHOUT_SKIP: ("residual.rezero", "residual.pre_norm", "init.looks_linear"),
    Cause.NORMALIZATION_WITHOUT_SKIP: ("residual.rezero", "residual.pre_norm"),
    Cause.RECURRENT_WEIGHTS: ("init.rescale", "init.orthogonal", "clipping.norm", "init.default"),
    Cause.LEARNING_RATE_TOO_HIGH: ("clipping.norm", "learning_rate.find", "learning_rate.warmup"),
    Cause.LEARNING_RATE_TOO_LOW: ("learning_rate.find",),
    Cause.UNKNOWN: ("learning_rate.find", "init.two_way"),
    Cause.LOSS_SCALE: ("loss.mean", "clipping.norm"),
    Cause.INPUT_SCALE: ("input.standardise", "normalization.layer_norm"),
    Cause.BAD_BATCH: ("guard.skip", "clipping.auto", "clipping.norm"),
    Cause.NONFINITE_INPUT: ("data.clean", "guard.skip"),
    Cause.DTYPE_OVERFLOW: ("dtype.float32", ("operation.mask", {"everywhere": True}), _BF),
    Cause.DTYPE_UNDERFLOW: ("amp.grad_scaler", "dtype.float32", "dtype.bfloat16"),
    Cause.UNDEFINED_OPERATION: (("operation.mask", {"everywhere": True}), "guard.skip"),
    Cause.OUTPUT_ACTIVATION_MISMATCH: ("output.logits", "output.linear", "output.log_softmax"),
    Cause.GRADIENTS_NOT_ZEROED: ("gradients.zero",),
    Cause.DISCONNECTED_PARAMETERS: ("graph.connect", "optimizer.rebuild"),
    Cause.OPTIMIZER_STATE: ("optimizer.settings", "optimizer.reset", "optimizer.beta2"),
}
# The rule has measured a rate; what comes next is so many times that.
_RATES: dict[Cause, tuple[float, ...]] = {
    Cause.LEARNING_RATE_TOO_HIGH: (0.25, 4.0, 0.01),
    Cause.LEARNING_RATE_TOO_LOW: (3.0, 0.25, 30.0),
    Cause.LOSS_SCALE: (0.1,),
}
# What concerns a whole network, whichever layer the fault begins at.
_WHOLE = ("activation.", "residual.", "normalization.", "graph.", "output.")

_CLIPPING = "clipping.norm"
_RATE = "learning_rate.scale"
_SKIP = "guard.skip"
_NO_CLIP_DEPTH = "scales all layers alike: the ratio between them, which is wrong, stays"
_NO_CLIP_NAN = "the norm of a gradient with a NaN is NaN: every clipping ends in NaN or zeros"
_NO_RATE_DEPTH = "is one number for all layers: the first step is as uneven at any rate"
_NOT: dict[Cause, tuple[tuple[str, str], ...]] = {
    Cause.WEIGHTS_TOO_LARGE: ((_CLIPPING, _NO_CLIP_DEPTH), (_RATE, _NO_RATE_DEPTH)),
    Cause.WEIGHTS_TOO_SMALL: ((_CLIPPING, "makes no gradient larger"), (_RATE, _NO_RATE_DEPTH)),
    Cause.SATURATING_ACTIVATION: (
        (_CLIPPING, "makes no gradient larger"),
        (_RATE, "would have to differ from layer to layer by as much as the gradients do"),
    ),
    Cause.DEPTH_WITHOUT_SKIP: (
        ("init.orthogonal", "keeps the variance; representations collapse all the same"),
        ("init.lsuv", "keeps the variance; representations collapse all the same"),
        (_CLIPPING, "the gradients' size is fine; it is what they say that is lost"),
    ),
    Cause.NORMALIZATION_WITHOUT_SKIP: (
        ("init.kaiming_normal", "batch normalisation undoes the scale of any weights"),
        (_CLIPPING, _NO_CLIP_DEPTH),
    ),
    Cause.BAD_BATCH: ((_RATE, "slows every good step too, and the bad one stays a bad one"),),
    Cause.NONFINITE_INPUT: ((_CLIPPING, _NO_CLIP_NAN), (_RATE, "NaN times any rate is NaN")),
    Cause.UNDEFINED_OPERATION: ((_CLIPPING, _NO_CLIP_NAN), (_RATE, "NaN times any rate is NaN")),
    Cause.DTYPE_OVERFLOW: ((_CLIPPING, _NO_CLIP_NAN),),
    Cause.DTYPE_UNDERFLOW: ((_CLIPPING, "what was rounded to zero stays zero"),),
    Cause.LEARNING_RATE_TOO_HIGH: (
        (_SKIP, "every step is too long: to skip the worst leaves the others"),
    ),
    Cause.RECURRENT_WEIGHTS: ((_SKIP, "the gradients explode at most steps, not at a few"),),
    Cause.GRADIENTS_NOT_ZEROED: ((_CLIPPING, "the direction is that of old batches"),),
}


def candidates(finding: Finding) -> tuple[Remedy, ...]:
    """Remedies for a finding in the order in which to try them, at most six, none twice.

    >>> from surefoot.findings import Pathology, Severity
    >>> f = Finding("SF402", Pathology.SPIKE, Cause.BAD_BATCH, Severity.HARMFUL, "")
    >>> [r.remedy for r in candidates(f)]
    ['guard.skip', 'clipping.auto', 'clipping.norm']
    """
    from surefoot.remedies import TREATMENTS

    found: dict[str, Remedy] = {}

    def add(remedy: Remedy) -> None:
        parameters = {**TREATMENTS[remedy.remedy].defaults, **remedy.parameters}
        key = json.dumps([remedy.remedy, remedy.target, parameters], sort_keys=True, default=str)
        found.setdefault(key, remedy)

    around = _RATES.get(finding.cause, ())
    for remedy in (_whole(r) for r in finding.remedies):
        add(remedy)
        if remedy.remedy == _RATE and around:
            measured = TREATMENTS[_RATE](None, **remedy.parameters).parameters["factor"]
            for times in around:
                add(TREATMENTS[_RATE](factor=float(f"{times * measured:.2g}")).remedy(remedy.why))
            around = ()  # only the first is the rule's own: a report has the others as well
    target = finding.layer if finding.cause is Cause.RECURRENT_WEIGHTS else None
    for row in _NEXT.get(finding.cause, ()):
        name, parameters = (row, {}) if isinstance(row, str) else row
        add(TREATMENTS[name](target, **parameters).remedy())
    return tuple(found.values())[:MOST]


def _whole(remedy: Remedy) -> Remedy:
    """Aimed at the whole network where it concerns all of it, or nearly all."""
    wide = remedy.target is not None and "*" in remedy.target
    if wide or remedy.remedy.startswith(_WHOLE):
        return replace(remedy, target=None)
    return remedy


def unhelpful(finding: Finding) -> tuple[tuple[str, str], ...]:
    """(remedy, reason) of what people reach for and what would not help here."""
    return _NOT.get(finding.cause, ())
