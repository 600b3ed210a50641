"""What trials have shown of the remedies of a recorded run: `proof.json` beside its record.

`surefoot prove RUN` writes it; whoever reads the run finds it at the remedies that were tried. The
file may be a stranger's: what is not as the contract has it is as if it were not there.
"""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from surefoot.findings import Report

NAME = "proof.json"
_LARGEST = 8 << 20  # bytes


def proven(report: Report, folder: Path) -> Report:
    """The report with what is known of its remedies, first those that are proven."""
    known = _trials(folder)
    if not known:
        return report
    findings = []
    for finding in report.findings:
        proofs = [known.get(_key(r.remedy, r.target), r.proof) for r in finding.remedies]
        pairs = zip(finding.remedies, proofs, strict=True)
        remedies = [replace(remedy, proof=proof) for remedy, proof in pairs]
        remedies.sort(key=lambda r: (r.proof or {}).get("outcome") != "proven")
        findings.append(replace(finding, remedies=tuple(remedies)))
    return replace(report, findings=tuple(findings))


def kept(folder: Path) -> dict[str, Any] | None:
    """What the file holds, whatever that is; None without one that can be read."""
    path = folder / NAME
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return None
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def _trials(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        trials = (kept(folder) or {})["trials"]
        return {_key(t["remedy"], t["target"]): _short(t) for t in reversed(trials)}
    except (KeyError, TypeError):
        return {}


def _short(trial: dict[str, Any]) -> dict[str, Any]:
    outcome, words = trial["outcome"], trial["words"]
    if not isinstance(outcome, str) or not isinstance(words, str):
        raise TypeError("expected an outcome in words")
    return {"outcome": outcome[:40], "words": words[:400]}


def _key(remedy: object, target: object) -> str:
    return f"{remedy} {target}"
