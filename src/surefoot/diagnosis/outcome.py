"""The outcome: is this training getting anywhere? A gauge alone never makes a finding harmful.

The yardstick is the best constant prediction on the same targets (the trivial predictor), read from
the loss's own anatomy, or searched for where the loss can be computed again; where neither
succeeds, the run's own first loss stands in for it. All scale with the loss, so that its unit does
not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from surefoot.diagnosis.case import Case

_SHORT = 12  # steps below which progress cannot be told from noise
_YOUNG = 48  # steps below which many a sound training has gained next to nothing
_OTHER = 1.5  # times the entropy of the last labels
_MOVING = 4.0  # times the lowest loss of a constant answer that was found
_BLOWN = 2.0  # times the first loss: the first steps blew up
_DRIFT = 3.0  # standard errors by which a loss has moved that is not just scattering
_DOWN = 0.85  # of the first losses: such a loss has come down, however much it scatters
_SCATTER = 0.9  # quantile of the losses before: above it a loss is out of their range
_FALLS = 0.05  # of the yardstick, gained in the last quarter of the run


@dataclass(frozen=True, slots=True)
class Outcome:
    """Loss levels in the script's unit, and the skill: the share of the yardstick that is gone.

    skill = 1 - final / yardstick over the finite losses; best_skill uses the best smoothed loss of
    the run. None where the loss was not seen or goes below zero (then no yardstick exists).
    nonfinite: it ended NaN or infinite; climbed: it rose clearly before it ended or failed.
    inert: against the first loss only, and after the first quarter of the run not a weight moved
    that had moved before: what such a loss came down from says nothing.
    drift: standard errors by which the last third of the losses lies below the first third.
    falling: share of the yardstick that the last quarter of the run has gained.
    searched: the constant prediction is that of several terms, or was searched for: whether its
    targets are fixed is not known, and what opposes what.
    short: too few losses to judge by; young: so few steps that a small gain means nothing yet;
    descending: so few, and the loss clearly comes down, never having leapt.
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
    drift: float = 0.0
    falling: float = 0.0
    searched: bool = False
    young: bool = False
    descending: bool = False

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

    def learned(self, skill: float) -> bool:
        """Whether it had once gained so much: what was there from the first step on allowed it."""
        return self.best_skill is not None and self.best_skill >= skill and not self.inert

    def learning(self, skill: float) -> bool:
        """Whether it has gained so much, and goes on to gain."""
        gains = self.falling >= _FALLS and self.drift >= _DRIFT  # more than it scatters
        return gains and (self.skill or 0.0) >= skill

    @property
    def unmoved(self) -> bool:
        """A loss without a scale of its own (it goes below zero) that nothing has moved."""
        blind = self.skill is None and self.final is not None and not self.nonfinite
        return blind and not self.short and abs(self.drift) < _DRIFT

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
    if 0 < _BLOWN * finite[0] < initial:
        initial = float(finite[0])  # their median is no beginning
    final = float(np.median(finite[-max(5, len(finite) // 10) :]))
    best = _best(finite)
    trivial = trivial_loss(case)
    yardstick = trivial if trivial is not None else initial
    short, young = len(finite) < _SHORT, min(len(finite), case.facts.steps) < _YOUNG
    before = finite[:-3] if len(finite) > 3 else finite[:1]
    steeply = finite[-3:].max() > 3 * max(initial, float(np.quantile(before, _SCATTER)))
    # Of a run that was lost, the climb may lie before its last losses.
    lofty = nonfinite and initial > 0 and np.median(finite) > 3 * max(initial, yardstick)
    climbed = bool(steeply or lofty)
    drift = _drift(finite)
    if yardstick <= 0 or best < 0:
        return Outcome(
            *(initial, final, None, False, None, None, nonfinite, short, climbed),
            drift=drift,
            young=young,
        )
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
        drift=drift,
        searched=trivial is not None and not _single(case),
        falling=(float(np.median(finite[len(finite) // 2 :][: len(finite) // 4 + 1])) - final)
        / yardstick,
        young=young,
        descending=young and _descends(finite, initial, final),
    )


def _descends(losses: np.ndarray, initial: float, final: float) -> bool:
    """Whether the loss clearly comes down, and never leapt on the way."""
    down = _drift(losses) >= _DRIFT or final < _DOWN * initial
    return bool(down and losses.max() <= _BLOWN * initial)


def _single(case: Case) -> bool:
    """Whether the last loss that was read is one function, with targets of its own."""
    kinds = [x.get("kind") for x in case.losses if x.get("trivial")]
    return bool(kinds) and kinds[-1] != "composite"


def _drift(losses: np.ndarray) -> float:
    """By how many standard errors the median of the last third lies below that of the first."""
    third = len(losses) // 3
    if third < 4:
        return 0.0
    first, last = losses[:third], losses[-third:]
    scatter = [1.4826 * float(np.median(np.abs(x - np.median(x)))) for x in (first, last)]
    error = 1.2533 * math.hypot(*scatter) / third**0.5
    moved = float(np.median(first) - np.median(last))
    return moved / error if error > 0 else float(np.sign(moved)) * np.inf if moved else 0.0


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

    In closed form for a single loss function with fixed targets; for others what was searched for,
    if anything was. None if neither is known. Where the script changes the loss's weight on the
    way, what counts is the weight of the last one read, within a factor of two: masks and lengths
    vary, units do not.
    """
    known = [
        x for x in case.losses if x.get("trivial") is not None and not x.get("target_nonfinite")
    ]
    # Another loss function is another task.
    read = [
        (x["trivial"], float(x.get("multiplier") or 1.0))
        for x in known
        if x.get("kind") == known[-1].get("kind")
    ]
    values = [trivial for trivial, weight in read if 0.5 <= weight / read[-1][1] <= 2]
    # Entropies that differ by more are of other labels: another task has begun.
    if values and case.losses[-1].get("kind") == "cross_entropy":
        last = next((v for v in reversed(values) if v > 0), 0.0)
        values = [v for v in values if last / _OTHER <= v <= last * _OTHER]
    if not read:
        found = [loss["constant"] for loss in case.losses if loss.get("constant") is not None]
        # Targets that the network itself makes move away; batches differ by less.
        moving = bool(found) and max(found) > _MOVING * min(found)
        values = [] if moving else found
    median = float(np.median(values)) if values else 0.0
    return median if median > 0 else None
