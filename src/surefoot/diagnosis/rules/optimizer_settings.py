"""The optimizer is set up in a way that its own theory excludes, or is made anew at every step.

**What.** The loss oscillates, climbs or stands still at a usual learning rate, because of another
number that the optimizer was given: a momentum that hardly forgets, betas in the wrong order, a
running mean that takes thousands of steps to fill, an accumulator that begins too large.

**Why.** Momentum m adds up `1 / (1 - m)` gradients, so that a step is that much longer than its
learning rate says. Adam's moments only bound its steps while `beta1^2 < beta2`. RMSprop divides by
a mean that begins at zero: its first step is `1 / sqrt(1 - alpha)` times the learning rate. An
optimizer that is made anew at every step has no memory at all, and one that is told to maximise
climbs.

**Evidence.** The settings of the optimizer at its first step, how many were made, and what became
of the run: settings alone are nobody's business.

**Remedies.** The usual value; one optimizer, made before the loop.

**Thresholds.** `_HEAVY` (0.99): a momentum that adds up a hundred gradients, where ten are usual.
`beta1^2 >= beta2` is excluded by the condition of Adam's own analysis. `_LONG` (0.999) for a mean
that is not corrected for its start: the first step is 32 times the learning rate. `_FULL` (1) for
Adagrad's first accumulator and `_DAMPED` (0.9): both divide the first steps by ten and more.
`_HUGE` (1e-2) for an eps, where 1e-8 is usual, if it rules half of the elements: those steps are
shorter by the quotient of the two. `_ANEW` (half) of the steps with an optimizer of their own is no
restart. In all cases the run must have diverged, or gained less than `_LEARNS` (three quarters) of
the trivial predictor's loss, or have spikes at `_SPIKES` (3) steps and more, of which 3 of 88
healthy trainings had one at all. What only shortens a step is not held against a run of fewer than
48 steps whose loss comes down and has gained `_BEGUN` (a tenth): a sound one with an eps of a tenth
had gained a fifth in its first 13, faulty ones nothing.

**Source.** Kingma & Ba 2015, section 4 (beta1^2 / sqrt(beta2) < 1); Polyak 1964 (heavy ball);
definitions in torch.optim.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.rule import Rule, bad_severity
from surefoot.findings import Cause, Evidence, Finding, Pathology
from surefoot.remedies import prescribed

_HEAVY, _LONG, _FULL, _DAMPED = 0.99, 0.999, 1.0, 0.9
_ANEW, _LEARNS, _SPIKES, _HUGE, _BEGUN = 0.5, 0.75, 3, 1e-2, 0.1
_SHORTENS = ("dampening", "eps", "initial_accumulator_value")  # a step, and never lengthen it


def judge(case: Case) -> Iterator[Finding]:
    """Judge the settings of a run that failed."""
    result = outcome(case)
    spikes = sum(a.detail.get("kind") == "spike" for a in case.alarms)
    poor = (result.trivial and result.poor(_LEARNS) and not result.short) or result.unmoved
    failed = result.diverged or poor or spikes >= _SPIKES
    found = _absurd(case) if failed and not result.untrained else None
    if found is None:
        return
    name, value, usual, why = found
    if name in _SHORTENS and result.descending and (result.skill or 0.0) >= _BEGUN:
        return
    optimizer = case.facts.optimizer
    yield Finding(
        rule=RULE.id,
        pathology=_pathology(case, name),
        cause=Cause.OPTIMIZER_STATE,
        severity=bad_severity(case),
        first_step=0,
        last_step=case.facts.steps - 1,
        confidence=0.75,
        sentence=f"{optimizer} has {name} = {value:g}: {why}; {result.words()}.",
        evidence=(Evidence(name, value, usual),),
        remedies=(
            prescribed(
                "optimizer.settings",
                None,
                "the values that optimizers come with suit most networks",
            ),
        ),
    )


def _absurd(case: Case) -> tuple[str, float, str, str] | None:
    """(setting, value, what is usual, what it does) of the first that is excluded."""
    facts, given = case.facts, dict(case.facts.settings)
    first, second = given.get("beta1", 0.0), given.get("beta2", 1.0)
    momentum = max(given.get("momentum", 0.0), first)
    remembers = momentum > 0 or "beta2" in given or "alpha" in given
    if remembers and facts.optimizers >= max(_ANEW * facts.steps, 3):
        made = float(facts.optimizers)
        return "optimizers made", made, "1", "what it remembers is lost at every step"
    if given.get("maximize") and outcome(case).diverged:
        return "maximize", 1.0, "False", "it climbs the loss"
    if "beta2" in given and first**2 >= second:
        return "beta1", first, "0.9", f"its square is not below beta2 = {second:g}"
    if momentum >= _HEAVY:
        name = "beta1" if momentum == first else "momentum"
        return name, momentum, "0.9", f"a step adds up {1 / max(1 - momentum, 1e-9):.3g} gradients"
    if given.get("alpha", 0.0) >= _LONG:
        times = 1 / max(1 - given["alpha"], 1e-12) ** 0.5
        return "alpha", given["alpha"], "0.99", f"its first step is {times:.3g} times the rate"
    if given.get("dampening", 0.0) >= _DAMPED:
        return "dampening", given["dampening"], "0", "hardly any of the gradient is taken"
    if given.get("eps", 0.0) >= _HUGE and _ruled(case) >= _ANEW:
        return "eps", given["eps"], "1e-8", "it is larger than the root of the squared gradients"
    if given.get("initial_accumulator_value", 0.0) >= _FULL:
        value = given["initial_accumulator_value"]
        return "initial_accumulator_value", value, "0", "it divides by what it never saw"
    return None


def _ruled(case: Case) -> float:
    """Share of the elements whose running root is below eps, in the median matrix and sample."""
    series, matrices = case.get("second_moment"), case.weight_matrices()
    if not len(series) or series.last.shape[1] != 2 * len(matrices) or not matrices.any():
        return 0.0
    shares = series.last.reshape(len(series), -1, 2)[:, matrices, 1].astype(float)
    return float(np.nanmedian(shares)) if np.isfinite(shares).any() else 0.0


def _pathology(case: Case, setting: str) -> Pathology:
    if outcome(case).diverged:
        return Pathology.EXPLODING
    if setting in _SHORTENS:
        return Pathology.STALLED
    steps = pace(case)
    moving = steps is not None and steps.typical >= 1e-3
    return Pathology.OSCILLATING if moving else Pathology.STALLED


RULE = Rule("SF308", "Settings of the optimizer", __doc__ or "", judge)
