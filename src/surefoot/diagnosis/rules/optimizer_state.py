"""The optimizer's memory of past gradients, or its eps, makes every step far too short.

**What.** Training stands still or crawls although gradients arrive at every layer and the learning
rate is usual: Adam, AdamW, RMSprop and their kin divide by something much larger than the gradient.

**Why.** They divide by the root of a running mean of squared gradients. After a phase of much
larger gradients (a loss weight that is lowered, another task, a warm-up on other data) that mean
remembers them for `1 / (1 - beta2)` steps, a thousand for the usual 0.999. Or eps, which is there
to keep the division finite, is itself larger than the root.

**Evidence.** RMS_t: the root mean square of the gradient over the optimizer's own root, element by
element, read from its state at sampled steps; the share of elements whose root is below eps; and a
loss that stays behind. The opposite, a gradient that has outgrown its running mean (RMS_t above
two, as before a loss spike), is recorded; it is no finding by itself.

**Remedies.** A shorter memory (beta2 = 0.95); a fresh optimizer when the loss changes; a smaller
eps. A larger learning rate helps too, until the memory has faded and it is too large.

**Thresholds.** Of gradients whose scale does not change RMS_t is 1, whatever their size: it is the
quotient of a mean of squares and a running mean of the same. At `_SHORT` (0.1) the steps have a
tenth of their length. Sound runs come below it too, as their gradients fade with their loss:
therefore it is only said of a run that has not gained `_LEARNS` (45 %) of the trivial predictor's
loss (two sound ones of speech rested at 49 % on their way), whose RMS_t was at least `_FRESH` (0.3)
before and has not been since, for half of the run or more; or which was below `_SHORT` at the very
first step, whose state was therefore taken over from another run; or whose eps rules `_RULED`
(half) of the elements and is above `_USUAL` (1e-7): where the usual 1e-8 does, the gradients are
what is wrong. Below `_GONE` (1e-12) there is no gradient to speak of, which is another matter.
Single batches scatter (a sound regression had 0.66, then 0.09): it takes `_SAMPLES` (3) sampled
steps in a row. `_STEPS` (30) steps are what the rule on low learning rates asks for as well. Where
the weights have faded to `_FADED` (a tenth), gradients fade with them, and that is what is wrong
(SF307); so they do behind a layer of which `_CLOSED` (95 %, as SF105 asks) is dead or saturated. A
loss that does not tell has to leave it to a state that did not fit from the very first step.

**Source.** Kingma & Ba 2015, section 2; Wortsman et al. 2023, "Stable and low-precision training",
section 3.4 (RMS_t).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import remaining
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.remedies import prescribed

_SHORT, _FRESH, _GONE, _RULED = 0.1, 0.3, 1e-12, 0.5
_LEARNS, _STEPS, _SAMPLES, _FADED, _USUAL = 0.45, 30, 3, 0.1, 1e-7
_CLOSED = 0.95
_MEMORY = prescribed(
    "optimizer.beta2", None, "forgets larger gradients of the past within some twenty steps"
)
_FRESH_STATE = prescribed(
    "optimizer.reset", None, "a new optimizer knows nothing of the phase before"
)
_EPS = prescribed(
    "optimizer.eps",
    None,
    "eps is there to keep a division finite, and belongs far below the gradients",
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge the samples since the last at which the memory fitted, if they are half of the run."""
    series, result = case.get("second_moment"), outcome(case)
    matrices = case.weight_matrices()
    if case.facts.steps < _STEPS or not len(series) or result.diverged:
        return
    blind = result.unmoved or not result.trivial
    if not (result.poor(_LEARNS) or result.unmoved) or not matrices.any():
        return
    if (remaining(case) or 1.0) <= _FADED or _shut(case):
        return  # gradients fade with the weights, or behind units that pass none
    rows = series.last.reshape(len(series), -1, 2)[:, matrices].astype(float)
    rms, share = np.nanmedian(rows, axis=1).T
    calm = np.median([rms[:-2], rms[1:-1], rms[2:]], axis=0)  # single batches scatter
    fresh = np.flatnonzero(calm >= _FRESH) + 1
    late = np.arange(len(rms)) > (fresh[-1] if len(fresh) else -1)
    if late.sum() < _SAMPLES or series.steps[late][0] > case.facts.steps / 2:
        return
    now, ruled = float(np.nanmedian(rms[late])), float(np.nanmedian(share[late]))
    eps = ruled >= _RULED and dict(case.facts.settings).get("eps", 1.0) > _USUAL
    # A state that is made at the first step fits the gradient it is made of.
    inherited = series.steps[0] == 0 and rms[0] < _SHORT
    if not _GONE < now < _SHORT or not (inherited or (not blind and (eps or len(fresh)))):
        return
    since = int(series.steps[late][0]) if len(fresh) else 0
    name = case.facts.optimizer
    why = (
        f"for {ruled:.0%} of the elements eps is larger than the root it divides by"
        if eps
        else "it still divides by the larger gradients of an earlier phase"
    )
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.OPTIMIZER_STATE,
        severity=Severity.HARMFUL,
        first_step=since,
        last_step=case.facts.steps - 1,
        confidence=0.85,
        sentence=(
            f"The steps of {name} have {now:.1%} of the length that their gradients call for: "
            f"{why}; {result.words()}."
        ),
        evidence=(
            Evidence("RMS_t, median since then", now, "0.3 to 2"),
            Evidence("RMS_t, highest before", float(np.nanmax(rms)), "about 1"),
            Evidence("share of the elements ruled by eps", ruled, "near 0"),
        ),
        remedies=(_EPS,) if eps else (_MEMORY, _FRESH_STATE) if len(fresh) else (_FRESH_STATE,),
    )


def _shut(case: Case) -> bool:
    """Whether nearly all units of a layer are dead or saturated at the last instrumented step."""
    live = [f for f in case.flows if not f.replayed]
    return bool(live) and any((c.frozen or 0.0) >= _CLOSED for c in live[-1].calls)


RULE = Rule("SF306", "State of the optimizer", __doc__ or "", judge)
