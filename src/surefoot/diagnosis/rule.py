"""What a rule is: one file with a page of documentation, a judge, and what it can explain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import Outcome, outcome
from surefoot.diagnosis.pace import pace
from surefoot.findings import Finding, Severity

_LEARNED = 0.5  # of the yardstick gained at some time
_BEGUN = 0.05  # of it, by a run that is still gaining
_STILL = 0.02  # of the size of any matrix, all steps together
_WELL_BEGUN = 0.25  # the same where more than three decades are missing


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the book.

    id: stable, `SFnnn`; page: its documentation (the module's docstring); judge: findings for a
    case, `root` and `follows` left at their defaults. The order of the registry is the order of
    elimination: data, operations, wiring, scales, depth, step size. A finding explains those of
    later rules that begin no earlier.
    """

    id: str
    title: str
    page: str
    judge: Callable[[Case], Iterable[Finding]]


def gauge_severity(case: Case, decades: float, lone: bool = False) -> Severity | None:
    """How much a gauge that is `decades` out of balance matters, given what became of the run.

    0.87, 1.3 and 2 decades are 4, 6 and 9 depth scales (docs/thresholds.md), each with
    the skill that a healthy run of that depth would exceed. A run that learns gets advice at most.
    `lone`: a single layer that stands out by that much from the others.
    """
    result = outcome(case)
    if decades < 0.87:
        return None
    if result.untrained:
        return _untrained_severity(decades, lone)
    if result.skill is None or result.short:
        strong = decades >= (2.0 if result.short else 3.0)
        return _bad(result) if strong or (result.climbed and decades >= 1.3) else None
    broken = lone and decades >= 2
    limit = 0.75 if decades >= 2 else 0.25 if decades >= 1.3 else 0.1
    if broken:
        limit = 0.8  # one broken layer among sound ones: the others had little to make up for
    if result.learned(max(limit, _LEARNED)):
        return None  # it was there from the first step on, and the run learned all the same
    if not broken and decades < 3.5 and result.learning(_BEGUN if decades < 3 else _WELL_BEGUN):
        return None  # late or slowly
    if decades < 2 and result.descending:
        return None
    if result.poor(limit):
        return _untrained_severity(decades, lone) if at_rest(case) else _bad(result)
    return Severity.ADVICE if decades >= 3.0 and result.poor(0.9) else None


def at_rest(case: Case) -> bool:
    """Whether not even the swiftest matrix has gone anywhere: it is as good as untrained."""
    steps = pace(case)
    if steps is None or outcome(case).diverged:
        return False
    return steps.swift * case.facts.steps < _STILL


def _untrained_severity(decades: float, lone: bool) -> Severity | None:
    """Before training only theory speaks: at 2 decades most networks train slowly or not at all,
    at 1.3 half of them slowly; below that, nearly all train. A layer that stands out alone by a
    factor of ten is no chance: its deviation is at least six robust deviations.
    """
    if decades >= (1.0 if lone else 2.0):
        return Severity.HARMFUL
    return Severity.ADVICE if decades >= 1.3 else None


def bad_severity(case: Case) -> Severity:
    """Fatal if the run is lost, harmful otherwise."""
    return _bad(outcome(case))


def _bad(result: Outcome) -> Severity:
    return Severity.FATAL if result.nonfinite else Severity.HARMFUL


def times(decades: float) -> str:
    """A growth in decades as a factor in words.

    >>> times(0.6), times(-16.8), times(58)
    ('4x', '6e16x', 'over 1e30x')
    """
    if abs(decades) > 30:  # next to nothing is left, or it is zero
        return "over 1e30x"
    factor = 10 ** abs(decades)
    words = f"{factor:.2g}" if factor < 100 else f"{factor:.0e}"
    return words.replace("e+0", "e").replace("e+", "e") + "x"
