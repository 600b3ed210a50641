"""A report in the forms that dashboards show: Markdown, and a table of findings."""

from __future__ import annotations

import re

from surefoot.findings import Finding, Report
from surefoot.views.words import clean, number, sentence, when

COLUMNS = ("severity", "rule", "layer", "first_step", "sentence", "remedy")


def markdown(report: Report) -> str:
    """The verdict, each finding with its evidence, and the first remedy of each.

    No word of it is markup: names come from the model.
    """
    lines = [f"**{report.verdict}** after {report.steps:,} steps"]
    lines += [f"- {_plain(words)}" for words in report.missing]
    for finding in report.findings:
        where = f" at `{_code(finding.layer)}`" if finding.layer is not None else ""
        lines += ["", f"**{finding.severity}: {_plain(finding.rule)}**{where}, {when(finding)}", ""]
        lines.append(_plain(sentence(finding.sentence)))
        lines += ["", *(_evidence(finding))] if finding.evidence else []
        if finding.remedies:
            first = finding.remedies[0]
            target = f" on `{_code(first.target)}`" if first.target else ""
            lines += ["", f"Remedy: `{_code(first.remedy)}`{target}. {_plain(sentence(first.why))}"]
    return "\n".join(lines) + "\n"


def rows(report: Report) -> list[list[str | int]]:
    """A row of COLUMNS for each finding."""
    return [
        [
            str(finding.severity),
            clean(finding.rule),
            clean(finding.layer or ""),
            finding.first_step,
            clean(finding.sentence),
            clean(finding.remedies[0].remedy) if finding.remedies else "",
        ]
        for finding in report.findings
    ]


def _evidence(finding: Finding) -> list[str]:
    return [
        f"- {_plain(e.quantity)}: {number(e.value)}, expected {_plain(e.expected)}"
        for e in finding.evidence
    ]


def _plain(text: str) -> str:
    r"""Text that Markdown, and HTML within it, leave as it is.

    >>> _plain("<b> of [a_1](x)")
    '&lt;b&gt; of \\[a\\_1\\](x)'
    """
    safe = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", safe)


def _code(text: str) -> str:
    """Text between backticks."""
    return clean(text).replace("`", "'")
