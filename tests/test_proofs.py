"""A proof beside a record: whoever reads the run finds it at the remedies; a spoilt one is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surefoot.findings import Cause, Finding, Pathology, Remedy, Report, Severity
from surefoot.record.proofs import NAME, proven

REPORT = Report(
    (
        Finding(
            "SF101",
            Pathology.VANISHING,
            Cause.WEIGHTS_TOO_SMALL,
            Severity.HARMFUL,
            "",
            root=True,
            remedies=(Remedy("init.rescale", "fc1", ""), Remedy("residual.rezero", None, "")),
        ),
    ),
    100,
)


def trial(remedy: str, target: str | None, outcome: str) -> dict[str, object]:
    return {"remedy": remedy, "target": target, "outcome": outcome, "words": "loss 2 -> 1"}


def test_the_proven_remedy_comes_first(tmp_path: Path) -> None:
    trials = [
        trial("init.rescale", "fc1", "did not help"),
        trial("residual.rezero", None, "proven"),
    ]
    (tmp_path / NAME).write_text(json.dumps({"trials": trials}))
    first, second = proven(REPORT, tmp_path).findings[0].remedies
    assert first.remedy == "residual.rezero"
    assert first.proof == {"outcome": "proven", "words": "loss 2 -> 1"}
    assert second.proof == {"outcome": "did not help", "words": "loss 2 -> 1"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"trials": 3}', '{"trials": [{"remedy": "x"}]}', "[" * 100_000, "\x00"],
)
def test_a_spoilt_proof_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert proven(REPORT, tmp_path) == REPORT


def test_another_target_is_another_remedy(tmp_path: Path) -> None:
    rows = {"trials": [trial("init.rescale", "fc2", "proven")]}
    (tmp_path / NAME).write_text(json.dumps(rows))
    assert proven(REPORT, tmp_path) == REPORT


def test_without_a_proof_nothing_changes(tmp_path: Path) -> None:
    assert proven(REPORT, tmp_path) is REPORT
    (tmp_path / NAME).mkdir()
    assert proven(REPORT, tmp_path) is REPORT
