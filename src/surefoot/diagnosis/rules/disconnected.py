"""Parameters that the optimizer holds, and the model uses, never receive a gradient.

**What.** Layers run at every step, and their weights never move.

**Why.** The graph was cut after them: `.detach()`, `.data`, `.item()`, a numpy round trip,
`torch.no_grad()`, an operation whose slope is zero everywhere (rounding, a sign, a comparison); or
the optimizer holds the parameters of another model than the one that runs.

**Evidence.** The layer's output was computed and a later layer used something, yet no gradient ever
came back. Layers that were not called, frozen parameters, and outputs that nothing uses (a pooler)
are no finding.

**Remedies.** Remove what cuts the graph; build the optimizer from the model that is trained.

**Thresholds.** None is needed: a parameter had a gradient at some step, or at none. A layer is
named only if a later one used what it made. An optimizer whose parameters had none at all in
`_STEPS` (30) steps is in vain, whatever became of the run. A gradient of exactly zero counts as
none where fewer than `_FROZEN` (95 %) of the units are dead or saturated, as those rules ask, and
the run has not gained `_LEARNS` (half) of the trivial predictor's loss.

**Source.** Definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.diagnosis.rules.dead import dead_calls, fed_nothing
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Severity
from surefoot.remedies import prescribed
from surefoot.signals.flow import Call, Flow

_FROZEN, _LEARNS, _STEPS = 0.95, 0.5, 30
_CONNECT = prescribed(
    "graph.connect", None, "without a path from the loss there is nothing to learn from"
)
_REBUILD = prescribed(
    "optimizer.rebuild", None, "it holds parameters that the trained model does not use"
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge the parameters that never had a gradient."""
    facts, flow = case.facts, case.first
    if (facts.steps < 2 and not facts.rehearsed) or not facts.backwards or not facts.present:
        return
    if not any(facts.present):
        yield _all(case)
        return
    if facts.unfed and facts.steps >= _STEPS:
        yield _unfed(case)
        return
    if flow is None:
        return
    cut = _cut_layers(case, flow) or _annulled(case, flow)
    if not cut:
        return
    origin = max(cut, key=lambda c: c.order)
    name = case.layers.title(origin.layer)
    result = outcome(case)
    share = _share(case, {c.layer for c in cut})
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.DISCONNECTED_PARAMETERS,
        layer=name,
        victims=tuple(case.layers.title(c.layer) for c in cut if c is not origin),
        severity=Severity.HARMFUL,
        first_step=flow.step,
        last_step=facts.steps - 1,
        confidence=0.85,
        sentence=(
            f"{_they(name, len(cut) - 1)} at every step, but no gradient ever comes back: the "
            f"graph is cut after {name}; {result.words()}."
        ),
        evidence=(
            Evidence("share of the trained parameters without any gradient", share, "0"),
            Evidence("steps with a gradient at this layer", 0, str(facts.steps)),
        ),
        remedies=(Remedy(_CONNECT.remedy, name, _CONNECT.why, _CONNECT.code),),
    )


def _they(name: str, others: int) -> str:
    if others == 0:
        return f"{name} runs"
    return f"{name} and {others} more layer{'s' if others > 1 else ''} run"


def _all(case: Case) -> Finding:
    return Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.DISCONNECTED_PARAMETERS,
        severity=Severity.FATAL,
        first_step=0,
        last_step=case.facts.steps - 1,
        confidence=0.97,
        sentence=(
            f"In {case.facts.steps} steps no parameter of the optimizer ever had a gradient, "
            "although backward was called: it holds parameters that the loss does not depend on."
        ),
        evidence=(Evidence("parameters that ever had a gradient", 0, "all"),),
        remedies=(_REBUILD, _CONNECT),
    )


def _unfed(case: Case) -> Finding:
    """One of several optimizers steps in vain."""
    facts, layers = case.facts, case.layers
    owners = sorted({layers.parameters[i].layer for i in facts.unfed})
    name = layers.title(owners[-1])
    return Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.DISCONNECTED_PARAMETERS,
        layer=name,
        victims=tuple(layers.title(i) for i in owners[:-1]),
        severity=Severity.HARMFUL,
        first_step=0,
        last_step=facts.steps - 1,
        confidence=0.9,
        sentence=(
            f"An optimizer holds {len(facts.unfed)} parameters, up to those of {name}, and not "
            f"one of them ever had a gradient in {facts.steps} steps: the graph is cut behind "
            f"them; {outcome(case).words()}."
        ),
        evidence=(Evidence("its parameters that ever had a gradient", 0, "all"),),
        remedies=(Remedy(_CONNECT.remedy, name, _CONNECT.why, _CONNECT.code), _REBUILD),
    )


def _cut_layers(case: Case, flow: Flow) -> list[Call]:
    """Calls of layers that own trained parameters, ran, fed something, and never had a gradient."""
    layers, never = case.layers, _never(case)
    called = {c.layer: c for c in flow.calls if layers.layers[c.layer].leaf}
    silent = [c for layer, c in called.items() if layer in never and _mute(case, layer)]
    # Somebody after them must have used what they made: an input that no gradient leads out of,
    # though it does not come from the data itself.
    owners = {p.layer for p in layers.parameters}
    users = [
        c
        for c in flow.calls
        if c.layer in owners
        and layers.layers[c.layer].leaf
        and c.grad_output is not None
        and not c.connected
    ]
    return [c for c in silent if any(u.order > c.order for u in users)]


def _fed(here: Call, after: Call) -> bool:
    """Whether what one call gave may be what the next one took: a pooler's output is no one's."""
    ends = here.output, after.input
    return all(ends) and ends[0].numel == ends[1].numel  # type: ignore[union-attr]


def _never(case: Case) -> set[int]:
    """Layers with a parameter that an optimizer holds and that never had a gradient."""
    return {
        p.layer
        for i, p in enumerate(case.layers.parameters)
        if case.facts.present[i] == 0 and i in case.facts.trained
    }


def _annulled(case: Case, flow: Flow) -> list[Call]:
    """The last affine call that only zeros come back to, though they do not come to the next one.

    Rounding, a sign, a comparison: they have a gradient, and it is zero everywhere.
    """
    dead = dead_calls(case, flow) or fed_nothing(case, flow)
    # In a branch that begins at zero nothing is lost: what lies in it is meant to wait.
    branches = any(c.identity for c in flow.calls)
    if dead or branches or not outcome(case).poor(_LEARNS):
        return []
    kinds, never = case.layers.layers, _never(case)
    calls = [c for c in flow.calls if kinds[c.layer].kind.weighted]
    reached = False  # a layer before this one has a gradient: then this one's output is not used
    for here, after in pairwise(c for c in calls if c.grad_output or c.layer in never):
        back = here.grad_output
        reached = reached or (back is not None and back.norm > 0)
        lost = not reached if back is None else back.norm == 0 and not back.nonfinite
        came = after.grad_input is not None and after.grad_input.norm > 0
        between = (c for c in flow.calls if here.order <= c.order < after.order)
        if (
            lost
            and came
            and _fed(here, after)
            and all((c.frozen or 0.0) < _FROZEN for c in between)
        ):
            return [here]
    return []


def _mute(case: Case, layer: int) -> bool:
    return all(case.facts.present[i] == 0 for i in case.layers.parameters_of(layer))


def _share(case: Case, cut: set[int]) -> float:
    trained = [p for i, p in enumerate(case.layers.parameters) if i in case.facts.trained]
    total = sum(p.numel for p in trained)
    return sum(p.numel for p in trained if p.layer in cut) / max(total, 1)


RULE = Rule("SF402", "Disconnected parameters", __doc__ or "", judge)
