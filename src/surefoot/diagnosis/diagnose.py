"""From a case to a verdict: every rule is heard, then one finding is named as the root.

The rules speak independently. What makes one cause of several findings is elimination in the
registry's order and in time: the first harmful finding of the book explains every later one that
does not begin before it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.rules import RULES
from surefoot.findings import Cause, Finding, Guarded, Pathology, Report, Severity
from surefoot.remedies.decision import candidates, unhelpful

_LOG = logging.getLogger("surefoot")
# What a non-finite value cannot be explained by: it was made by its own batch or operation.
_OWN_CAUSE = (Cause.NONFINITE_INPUT, Cause.UNDEFINED_OPERATION)
# What may end in one all the same, if it began before.
_MAKES_NAN = (Pathology.EXPLODING, Pathology.OSCILLATING)


def diagnose(case: Case, ignore: Collection[str] = ()) -> Report:
    """The report on one training. A rule that fails is logged and left out; it never raises."""
    findings: list[Finding] = []
    for rule in RULES.values():
        if rule.id in ignore:
            continue
        try:
            with np.errstate(all="ignore"):
                findings += rule.judge(case)
        except Exception:
            _LOG.warning("rule %s could not be judged and is left out", rule.id, exc_info=True)
    return Report(tuple(_rooted(findings)), case.facts.steps)


def _rooted(findings: list[Finding]) -> list[Finding]:
    """Name the root of each episode and point the others to it; roots first, then by severity."""
    serious = [f for f in findings if f.severity is not Severity.ADVICE]
    own = [f for f in serious if f.cause in _OWN_CAUSE]
    rest = [f for f in serious if f not in own]
    roots: list[Finding] = []
    # A value made by its own batch or operation is a root, unless something was wrong before.
    for finding in sorted(own, key=lambda f: f.first_step):
        if not any(r.first_step < finding.first_step and r.pathology in _MAKES_NAN for r in rest):
            roots.append(finding)
    # What has no cause of its own is no root beside what has one.
    for finding in sorted(rest, key=lambda f: f.cause is Cause.UNKNOWN):
        if finding.cause is Cause.UNKNOWN and roots:
            continue
        if not any(_explains(r, finding) for r in roots) and not _later_than_any(finding, roots):
            roots.append(finding)
    named = []
    for finding in findings:
        if finding in roots:
            named.append(replace(finding, root=True))
            continue
        unknown = finding.cause is Cause.UNKNOWN and finding.severity is not Severity.ADVICE
        cause = next((r for r in roots if unknown or _explains(r, finding)), None)
        follows = cause.rule if cause is not None else None
        if cause is None and finding.severity is Severity.ADVICE:
            finding = replace(finding, root=not roots and not any(f.root for f in named))
        if follows and finding.severity is Severity.ADVICE and finding.cause is Cause.UNKNOWN:
            continue  # that something is wrong is known by now, and what
        if follows is not None:  # the cure is the root's; treating a symptom misleads
            finding = replace(finding, remedies=())
        named.append(replace(finding, follows=follows))
    named = [f if f.follows else _prescribed(f) for f in named]
    return sorted(named, key=lambda f: (not f.root, -f.severity.rank, f.first_step))


def _prescribed(finding: Finding) -> Finding:
    """With all that is worth trying, and what is not."""
    if finding.severity is Severity.ADVICE:
        return finding
    return replace(finding, remedies=candidates(finding), unhelpful=unhelpful(finding))


def _explains(root: Finding, other: Finding) -> bool:
    return root is not other and root.first_step <= other.first_step


def _later_than_any(finding: Finding, roots: list[Finding]) -> bool:
    """A finding over the whole run beside a root that came in the middle is of one episode."""
    return any(r.first_step <= finding.last_step and r.cause in _OWN_CAUSE for r in roots)


def _vague(finding: Finding) -> bool:
    """Whether it only says where something came from: of two trainings the other one knows more."""
    nowhere = finding.cause is Cause.UNDEFINED_OPERATION and finding.layer is None
    return finding.cause is Cause.UNKNOWN or nowhere


def merge(
    reports: Mapping[str, Report],
    missing: list[str],
    version: str,
    guard: Guarded | None = None,
) -> Report:
    """One report over all the trainings of a process, by title; `steps` is the longest one's.

    Of several trainings each finding says whose it is: their layers may have the same names.
    """
    findings = [
        replace(f, sentence=f"In {title}: {f.sentence}") if len(reports) > 1 else f
        for title, report in reports.items()
        for f in report.findings
    ]
    findings.sort(key=lambda f: (not f.root, -f.severity.rank, f.first_step, _vague(f)))
    steps = max((r.steps for r in reports.values()), default=0)
    return Report(tuple(findings), steps, tuple(missing), version, guard=guard)
