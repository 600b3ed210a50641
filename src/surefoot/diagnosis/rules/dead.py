"""A layer's ReLU units are dead: they give zero for every sample and receive no gradient.

**What.** Almost all units of a layer are zero on the whole batch. Their slope is zero as well, so
neither they nor anything before them can learn.

**Why.** A large step, a very negative bias or an input of the wrong scale pushed them below zero
for all data, and no gradient brings them back.

**Evidence.** The share of units that are zero for every sample, at the first and at later
instrumented steps; zero gradients of the layers before; a loss that stays behind. A quarter of dead
units or a half is common and harmless.

**Remedies.** Lower the learning rate if they died during training; otherwise re-initialise weights
and biases, or use a leaky ReLU or GELU.

**Thresholds.** With sound weights hardly a unit is zero on a whole batch: at most 11 % of a layer
were, freshly initialised. A layer with 73 % of its units dead still learned to a loss of 0.05, so a
share below `_DEAD` (0.95) is no evidence; the most in 58 healthy trainings were 56 %. What is left
of such a layer is one unit in twenty, and the run must not have gained `_LEARNS` (a quarter) of the
trivial predictor's loss. Where a loss below zero tells nothing, all units must be dead at the first
and at the last instrumented step. Where the activation could not be recognised, a layer that is fed
nothing but zeros tells of it; numbers up to `_ROUNDS` (a half) may have been rounded to zero
instead.

**Source.** Measured: a network with 73 % of a layer dead still trains; docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology
from surefoot.signals.flow import Call, Flow

_DEAD, _LEARNS, _ROUNDS = 0.95, 0.25, 0.5


def judge(case: Case) -> Iterator[Finding]:
    """Judge every live instrumented step; the first that shows a dead layer counts."""
    if not outcome(case).poor(_LEARNS) and not _for_good(case):
        return
    for flow in case.flows:
        dead = dead_calls(case, flow) or fed_nothing(case, flow)
        if dead:
            yield _finding(case, flow, dead)
            return


def _for_good(case: Case) -> bool:
    """Of a loss that tells nothing: whether all units of a layer are dead from first to last."""
    live = [f for f in case.flows if not f.replayed]
    if outcome(case).skill is not None or len(live) < 2:
        return False
    first, last = (
        {c.layer for c in dead_calls(case, f) if (c.frozen or 0.0) >= 1.0}
        for f in (live[0], live[-1])
    )
    return bool(first & last)


def dead_calls(case: Case, flow: Flow) -> list[Call]:
    """The calls after which a ReLU is zero for every sample in nearly all of its units."""
    asleep = [c for c in flow.calls if c.activation == "relu" and (c.frozen or 0.0) >= _DEAD]
    # An affine layer may be called again and again, as over time, and its units rest in one call.
    awake = {c.layer for c in flow.calls if c.frozen is not None and c.frozen < _DEAD}
    affine = {c.layer for c in asleep if case.layers.layers[c.layer].kind.weighted}
    return [c for c in asleep if c.layer not in awake & affine]


def fed_nothing(case: Case, flow: Flow) -> list[Call]:
    """The affine call before the first hidden one that is fed nothing but zeros.

    Not one whose outputs are all below `_ROUNDS`: rounding makes zeros of them as well.
    """
    weighted = [c for c in flow.calls if case.layers.layers[c.layer].kind.weighted and c.input]
    # A recurrent layer begins at zeros and is fed later.
    fed = {c.layer for c in weighted if c.input is not None and c.input.zeros < c.input.numel}
    for before, call in pairwise(weighted):
        if call.layer not in fed:
            large = before.output is not None and before.output.maxabs >= _ROUNDS
            return [before] if large else []
    return []


def _finding(case: Case, flow: Flow, dead: list[Call]) -> Finding:
    origin = dead[0]
    name = case.layers.title(origin.layer)
    share = origin.frozen or 1.0
    later = flow is not case.first
    when = f"since step {flow.step} at the latest" if later else "from the start"
    slower = prescriptions.learning_rate(0.1, "so that units do not die")
    return Finding(
        rule=RULE.id,
        pathology=Pathology.DEAD,
        cause=Cause.DEAD_RELU,
        layer=name,
        victims=tuple(case.layers.title(c.layer) for c in dead[1:]),
        severity=bad_severity(case),
        first_step=flow.step,
        last_step=case.facts.steps - 1,
        confidence=0.85,
        sentence=(
            f"{share:.0%} of the ReLU units after {name} are dead, {when}: they are zero for every "
            f"sample, and nothing before them receives a gradient; {outcome(case).words()}."
        ),
        evidence=(Evidence("share of units dead on the whole batch", share, "< 0.75", flow.step),),
        remedies=(slower,) if later else (),  # of those for units born dead the table knows
    )


RULE = Rule("SF105", "Dead ReLU units", __doc__ or "", judge)
