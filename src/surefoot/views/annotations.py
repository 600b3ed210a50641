"""Findings as annotations of a pull request, by the workflow commands of GitHub Actions.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions. They are lines of a
step's standard output or error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from surefoot.findings import Finding, Report, Severity
from surefoot.views.words import PATHOLOGY, clean, sentence

_LEVEL = {Severity.FATAL: "error", Severity.HARMFUL: "error", Severity.ADVICE: "notice"}
_MOST = 10  # that are shown of each step and level


def annotations(
    report: Report,
    file: str | Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Their lines, empty for a report without findings; file: where they are shown, if anywhere."""
    properties = ""
    if file is not None:
        place = _within(Path(file), environment.get("GITHUB_WORKSPACE"))
        properties = f"file={_property(place)},"
    lines = [
        f"::{_LEVEL[finding.severity]} {properties}title={_property(_title(finding))}"
        f"::{_message(_words(finding))}\n"
        for finding in report.findings[:_MOST]
    ]
    return "".join(lines)


def _title(finding: Finding) -> str:
    where = f" at {clean(finding.layer)}" if finding.layer else ""
    return f"surefoot {clean(finding.rule)}: {PATHOLOGY[finding.pathology][0]}{where}"


def _words(finding: Finding) -> str:
    lines = [sentence(finding.sentence)]
    for remedy in finding.remedies[:1]:
        target = f" on {clean(remedy.target)}" if remedy.target else ""
        lines.append(f"Remedy: {clean(remedy.remedy)}{target}. {sentence(remedy.why)}")
    lines.append(f"More: surefoot explain {clean(finding.rule)}")
    return "\n".join(lines)


def _within(file: Path, workspace: str | None) -> str:
    """A file's name from the root of the repository, as an annotation needs it."""
    path = Path(os.path.abspath(file))
    root = Path(os.path.abspath(workspace)) if workspace else None
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return Path(file).as_posix()


def _message(text: str) -> str:
    r"""As the runner reads it back.

    >>> _message("100 %\nof it")
    '100 %25%0Aof it'
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """The same within the head of a command, where colons and commas end something.

    >>> _property("a:b,c")
    'a%3Ab%2Cc'
    """
    return _message(clean(text)).replace(":", "%3A").replace(",", "%2C")
