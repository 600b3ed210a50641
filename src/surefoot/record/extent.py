"""How much of a report is taken over from a file: more than any run has, and no more than that.

A stranger's report may list a hundred thousand findings in a few megabytes. What is shown of them
takes time with their number, or with its square.
"""

from __future__ import annotations

from dataclasses import replace

from surefoot.findings import Finding, Report

FINDINGS = 200
ROWS = 100  # of evidence, of remedies, and of what would not help, in each finding
VICTIMS = 10_000  # a finding may name every layer of a large model
LINES = 100  # of what is missing


def within(report: Report) -> Report:
    """The report, or as much of a longer one: of findings the worst, and a line says of how many.

    >>> within(Report(missing=("x",) * 500)).missing == ("x",) * 100
    True
    """
    count = len(report.findings)
    worst = report.findings
    missing = report.missing[:LINES]
    if count > FINDINGS:
        worst = tuple(sorted(worst, key=lambda finding: -finding.severity.rank)[:FINDINGS])
        missing += (f"of its {count:,} findings only the worst {FINDINGS} are taken over",)
    return replace(report, findings=tuple(map(_finding, worst)), missing=missing)


def _finding(finding: Finding) -> Finding:
    return replace(
        finding,
        victims=finding.victims[:VICTIMS],
        evidence=finding.evidence[:ROWS],
        remedies=finding.remedies[:ROWS],
        unhelpful=finding.unhelpful[:ROWS],
    )
