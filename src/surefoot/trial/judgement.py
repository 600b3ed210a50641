"""From pairs of runs to an outcome: proven, did not help, or harmed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from surefoot.findings import Cause, Remedy, Report, Severity
from surefoot.trial.arm import Arm
from surefoot.trial.effect import NEVER_FINITE, Effect, effect
from surefoot.trial.proof import Curve, Outcome, Trial

_CLEAR = 0.1  # of the loss: less is no effect worth a change of the code
_FLOOR = 0.01  # of the first loss: two losses this close are one, however small they are
_GAUGES = 6
# What one step brings, and another one does not.
_OF_A_BATCH = (Cause.BAD_BATCH, Cause.NONFINITE_INPUT, Cause.UNDEFINED_OPERATION)


def judged(remedy: Remedy, before: Sequence[Arm], after: Sequence[Arm], steps: int) -> Trial:
    """The trial of one remedy from pairs of arms [n], compared over their first `steps`.

    Proven: the loss is lower by a tenth and the interval excludes that it is not, over two pairs
    and more, and no run with the remedy is unstable.
    """
    cured = all(sound(Report.from_json(arm.report)) for arm in after)
    seen = [a.losses and b.losses for a, b in zip(before, after, strict=True)]
    found = None
    if all(seen):
        first = [a.losses[0][1] for a in before]
        pairs = [_losses(a, b, steps) for a, b in zip(before, after, strict=True)]
        found = effect([a for a, _ in pairs], [b for _, b in pairs], first)
    outcome = _outcome(found, cured, _scale(before), len(after))
    return Trial(
        remedy,
        outcome,
        words(found, _finding(before, cured), len(after)),
        steps,
        found,
        cured,
        _gauges(before[0], after[0]),
        curve(after[0]),
    )


def _losses(before: Arm, after: Arm, steps: int) -> tuple[float, float]:
    """The final losses of a pair; one that failed by itself, and before the other, was lost."""
    a, b = before.loss(steps), after.loss(steps)
    if before.ended == "raised" and before.steps < after.steps:
        return math.inf, b
    return a, math.inf if after.ended == "raised" and after.steps < before.steps else b


def sound(report: Report) -> bool:
    """Whether a run is in order: nothing harmful stands, or a guard has held back all of it.

    What a guard skips is still in the data, and the verdict on the run says so; but the run is in
    order if there was nothing else, and nothing had to be rolled back.
    """
    serious = [f for f in report.findings if f.severity is not Severity.ADVICE]
    if not serious:
        return True
    acts = report.guard.acts if report.guard is not None and not report.guard.dry_run else {}
    skipped = set(acts) <= {"skip", "clip"} and acts.get("skip", 0) > 0
    return skipped and all(f.cause in _OF_A_BATCH for f in serious)


def _outcome(found: Effect | None, cured: bool, scale: float, pairs: int) -> Outcome:
    if pairs < 2:
        return Outcome.UNTRIED
    if found is None:  # no loss to compare: the finding alone decides
        return Outcome.PROVEN if cured else Outcome.DID_NOT_HELP
    assert found.low is not None and found.high is not None
    apart = abs(found.after - found.before) > _FLOOR * scale
    by = found.value if found.ratio else 1 + found.value / max(abs(found.before), 1e-30)
    if apart and by < 1 - _CLEAR and found.high < found.none:
        return Outcome.PROVEN if cured else Outcome.DID_NOT_HELP
    if apart and by > 1 + _CLEAR and found.low > found.none:
        return Outcome.HARMED
    return Outcome.DID_NOT_HELP


def _scale(before: Sequence[Arm]) -> float:
    """The size of the loss before training, against which small differences are none."""
    first = [abs(a.losses[0][1]) for a in before if a.losses]
    finite = [x for x in first if math.isfinite(x)]
    return min(finite, default=0.0)


def _finding(before: Sequence[Arm], cured: bool) -> str:
    """What became of the finding, in a clause."""
    if all(sound(Report.from_json(arm.report)) for arm in before):
        return "nothing was found with it or without" if cured else "a finding has come up"
    return "the finding is gone" if cured else "the finding stands"


def words(found: Effect | None, gone: str, pairs: int) -> str:
    """What was seen, in a clause. gone: what became of the finding."""
    runs = "one pair of runs" if pairs == 1 else f"{pairs} pairs of runs"
    if found is None:
        return f"{gone}, over {runs}; no loss was seen"
    return f"{_change(found)} over {runs}, {gone}"


def _change(found: Effect) -> str:
    """What became of the loss; no factor where some of the runs never had a finite one."""
    if found.before == found.after == NEVER_FINITE:
        return "loss never finite, without it or with it"
    if NEVER_FINITE in (found.before, found.after):
        before, after = (
            "never finite" if x == NEVER_FINITE else f"{x:.3g}" for x in (found.before, found.after)
        )
        return f"loss {before} without it, {after} with it"
    change = f"loss from {found.before:.3g} to {found.after:.3g}"
    if any(found.lost):
        without, with_it = (f"in {count} of {found.pairs}" for count in found.lost)
        return f"{change} (never finite {without} without it, {with_it} with it)"
    if found.ratio and found.low is not None and found.high is not None:
        change += f" (x{found.value:.2g}, 95 % {found.low:.2g} to {found.high:.2g})"
    return change


def _gauges(before: Arm, after: Arm) -> dict[str, tuple[float, float]]:
    both = [name for name in before.gauges if name in after.gauges]
    return {name: (before.gauges[name], after.gauges[name]) for name in both[:_GAUGES]}


def curve(arm: Arm) -> Curve:
    """The losses of an arm."""
    return Curve(tuple(s for s, _ in arm.losses), tuple(x for _, x in arm.losses))
