"""The outcome: is this training getting anywhere? A gauge alone never makes a finding harmful.

The yardstick is the best constant prediction on the same targets (the trivial predictor), read
from the loss's own anatomy; where that cannot be read, the run's own first loss stands in for it.
Both scale with the loss, so that its unit does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.diagnosis.case import Case

_SHORT = 12  # steps below which progress cannot be told from noise
_OTHER = 1.5  # times the entropy of the last labels


@dataclass(frozen=True, slots=True)
class Outcome:
    """Loss levels in the script's unit, and the skill: the share of the yardstick that is gone.

    skill = 1 - final / yardstick over the finite losses; best_skill uses the best smoothed loss of
    the run. None where the loss was not seen or goes below zero (then no yardstick exists).
    nonfinite: it ended NaN or infinite; climbed: it rose clearly before it ended or failed.
    inert: against the first loss only, and after the first quarter of the run not a weight moved
    that had moved before: what such a loss came down from says nothing.
    untrained: there is no outcome yet, because nothing was trained (`surefoot check`).
    """

    initial: float | None
    final: float | None
    yardstick: float | None
    trivial: bool
    skill: float | None
    best_skill: float | None
    nonfinite: bool
    short: bool
    climbed: bool
    inert: bool = False
    untrained: bool = False

    @property
    def diverged(self) -> bool:
        """Ended non-finite, or clearly above where it began and above the trivial predictor."""
        if self.nonfinite:
            return True
        if self.skill is None or self.short or self.final is None or self.initial is None:
            return False
        return self.skill < -0.5 and self.final > 1.5 * self.initial

    def poor(self, skill: float) -> bool:
        """Known to have gained less than `skill` (a NaN at the end does not undo what was).

        Before training nothing speaks for the run yet, and a gauge has to be judged alone.
        """
        if self.untrained or self.inert:
            return True
        if self.diverged and not (self.nonfinite and not self.climbed):
            return True
        return self.skill is not None and self.skill < skill

    def words(self) -> str:
        """The outcome as a clause of a sentence."""
        if self.untrained:
            return "nothing has been trained yet"
        if self.nonfinite:
            return "the loss ended non-finite"
        if self.inert:
            return "no weight moves any more"
        if self.skill is None or self.final is None:
            return "the loss does not tell whether it learns"
        reference = "a constant prediction" if self.trivial else "the first loss"
        if self.diverged:
            return f"the loss rose from {self.initial:.3g} to {self.final:.3g}"
        if self.skill < 0.05:
            return f"the loss ({self.final:.3g}) is no better than {reference}"
        return f"the loss ({self.final:.3g}) is {self.skill:.0%} below {reference}"


def outcome(case: Case) -> Outcome:
    """The outcome of a case so far (computed once a case)."""
    return case.once("outcome", lambda: _outcome(case))


def _outcome(case: Case) -> Outcome:
    if case.facts.rehearsed:
        return Outcome(None, None, None, False, None, None, False, True, False, untrained=True)
    last = case.get("loss").last[:, 0].astype(float)
    seen = last[~np.isnan(last)]
    finite = seen[np.isfinite(seen)]
    tail = seen[-max(5, len(seen) // 10) :]
    nonfinite = bool(len(tail)) and not np.isfinite(tail).sum() > len(tail) / 2
    if not len(finite):
        return Outcome(None, None, None, False, None, None, nonfinite, True, False)
    edge = max(1, min(5, len(finite) // 10))
    initial = float(np.median(finite[:edge]))
    final = float(np.median(finite[-max(5, len(finite) // 10) :]))
    best = _best(finite)
    trivial = trivial_loss(case)
    yardstick = trivial if trivial is not None else initial
    short = len(finite) < _SHORT
    before = finite[:-3] if len(finite) > 3 else finite[:1]
    steeply = finite[-3:].max() > 3 * max(initial, float(np.median(before)))
    # Of a run that was lost, the climb may lie before its last losses.
    lofty = nonfinite and initial > 0 and np.median(finite) > 3 * initial
    climbed = bool(steeply or lofty)
    if yardstick <= 0 or best < 0:
        return Outcome(initial, final, None, False, None, None, nonfinite, short, climbed)
    return Outcome(
        initial,
        final,
        yardstick,
        trivial is not None,
        1 - final / yardstick,
        1 - best / yardstick,
        nonfinite,
        short,
        climbed,
        inert=trivial is None and not short and final > 0 and _stands_still(case),
    )


def _stands_still(case: Case) -> bool:
    """Whether the updates of the median weight matrix were exactly zero after the first quarter."""
    ratios = case.get("update_ratio")
    if not len(ratios) or ratios.high.shape[1] != len(case.layers.parameters):
        return False
    moved = ratios.high[:, case.weight_matrices()].astype(float)
    used = (np.nan_to_num(moved) > 0).any(0)
    late = ratios.steps >= case.facts.steps / 4
    if not used.any() or late.sum() < 2:
        return False
    return bool(np.nanmedian(moved[late][:, used]) == 0)


def _best(losses: np.ndarray) -> float:
    """The lowest median over windows of a tenth of the run."""
    width = max(5, len(losses) // 10)
    if len(losses) <= width:
        return float(np.median(losses))
    windows = np.lib.stride_tricks.sliding_window_view(losses, width)[:: max(1, width // 4)]
    return float(np.median(windows, axis=1).min())


def trivial_loss(case: Case) -> float | None:
    """Median, over the steps whose loss was read, of the best constant prediction's loss.

    None if unread. Only for a single loss function with fixed targets; a composite loss has no
    such yardstick. Where the script changes the loss's weight on the way, what counts is the weight
    of the last one read, within a factor of two: masks and lengths vary, units do not.
    """
    read = [
        (loss["trivial"], float(loss.get("multiplier") or 1.0))
        for loss in case.losses
        if loss.get("kind") not in (None, "unknown", "composite")
        and loss.get("trivial") is not None
        and not loss.get("target_nonfinite")
    ]
    values = [trivial for trivial, weight in read if 0.5 <= weight / read[-1][1] <= 2]
    # Entropies that differ by more are of other labels: another task has begun.
    if values and case.losses[-1].get("kind") == "cross_entropy":
        last = next((v for v in reversed(values) if v > 0), 0.0)
        values = [v for v in values if last / _OTHER <= v <= last * _OTHER]
    median = float(np.median(values)) if values else 0.0
    return median if median > 0 else None
