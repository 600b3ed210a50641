"""What a verdict means: for each problem its consequence, and what came of it in this run."""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.findings import Check, Finding, Report, Severity
from surefoot.record.data import RunData
from surefoot.views.acts import guarded
from surefoot.views.outcome import outcome
from surefoot.views.words import CAUSE, PATHOLOGY, lead, plural

ROWS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One problem: its finding, and the number of that in the list of all, counted from 1."""

    number: int
    finding: Finding
    problem: str
    consequence: str
    outcome: str


def ending(data: RunData) -> str:
    """What became of the run, in a sentence or two."""
    if isinstance(data.report, Check):
        return "Nothing has been trained yet."
    return " ".join(filter(None, [outcome(data), guarded(data.report.guard)]))


def story(data: RunData) -> list[Row]:
    """The problems that no other finding explains, what the verdict speaks of first; at most five.

    Advice is none.
    """
    report = data.report
    first = lead(report)
    own = [f for f in report.findings if f.severity is not Severity.ADVICE and _alone(f, report)]
    own.sort(key=lambda f: f is not first)  # stable: the others keep their order
    return [_row(data, f, f is own[0]) for f in own[:ROWS]]


def _alone(finding: Finding, report: Report) -> bool:
    return finding.root or finding.follows not in [f.rule for f in report.findings]


def _row(data: RunData, finding: Finding, first: bool) -> Row:
    words = [ending(data)] if first else []
    if not first and not isinstance(data.report, Check):
        words.append(_seen(finding))
    if finding.victims:
        words.append(f"The symptom also shows in {plural(len(finding.victims), 'other layer')}.")
    return Row(
        data.report.findings.index(finding) + 1,
        finding,
        CAUSE[finding.cause][1],
        PATHOLOGY[finding.pathology][1],
        " ".join(words) or "Seen before training.",
    )


def _seen(finding: Finding) -> str:
    """When it was seen, as a sentence."""
    if finding.first_step == finding.last_step:
        return f"Seen at step {finding.first_step:,}."
    return f"Seen from step {finding.first_step:,} to {finding.last_step:,}."
