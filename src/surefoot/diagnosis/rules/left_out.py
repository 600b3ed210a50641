"""Weights that the loss reaches are in no optimizer: they receive gradients and never move.

**What.** The loss depends on weight matrices, backward gives them gradients at every step, and no
optimizer that takes steps holds them. They stay what the initialisation made of them.

**Why.** The optimizer was built before a head was replaced, from one part of the model, or from a
model that keeps its layers in a plain Python list, whose parameters `model.parameters()` does not
know. Frozen parameters are not meant: they ask for no gradient.

**Evidence.** The tensors at the ends of the loss's autograd graph, against those that the
optimizers hold, at steps 2, 4, 8 ... 1024; the module that owns them now, which may have been put
in after the optimizer was made; and a loss that stays behind.

**Remedies.** Build the optimizer last, from everything that is to learn; keep layers in
`nn.ModuleList`; call `requires_grad_(False)` on what is not meant to.

**Thresholds.** A linear probe on a network that nobody froze shows the same and may be meant: so
the run must not have gained `_LEARNS` (half) of the trivial predictor's loss, nothing that stands
earlier in the book explains it, and at least `_SHARE` (a quarter) of the weights is left out;
`_MOST` (half) where a loss below zero does not tell whether it learns.

**Source.** Definition.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.remedies import prescribed

_SHARE, _MOST, _LEARNS = 0.25, 0.5, 0.5
_BUILD = prescribed("optimizer.rebuild", None, "only what an optimizer holds can learn")


def left_out(case: Case) -> float:
    """Share of the weights under the last loss that was read which no optimizer holds."""
    seen = [loss["left_out"] for loss in case.losses if loss.get("left_out") is not None]
    return float(seen[-1]) if seen else 0.0


def _owner(case: Case) -> str | None:
    """The one module that all of them belong to, None if that is the whole model."""
    seen = [loss["left_out_layers"] for loss in case.losses if loss.get("left_out_layers")]
    if not seen:
        return None
    parts = [name.split(".") for name in seen[-1]]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared) or None


def judge(case: Case) -> Iterator[Finding]:
    """Judge the last look at what the loss reaches."""
    share, result = left_out(case), outcome(case)
    blind = result.skill is None and share >= _MOST and not result.short
    if share < _SHARE or not (result.poor(_LEARNS) or blind) or result.untrained:
        return
    layer = _owner(case)
    where = f", all of {layer}" if layer else ""
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.DISCONNECTED_PARAMETERS,
        layer=layer,
        severity=Severity.HARMFUL,
        first_step=0,
        last_step=case.facts.steps - 1,
        confidence=0.8,
        sentence=(
            f"No optimizer holds {share:.0%} of the weights that the loss depends on{where}: they "
            f"receive gradients and never move; {result.words()}."
        ),
        evidence=(Evidence("share of the weights under the loss in no optimizer", share, "0"),),
        remedies=(_BUILD,),
    )


RULE = Rule("SF404", "Weights left out of the optimizer", __doc__ or "", judge)
