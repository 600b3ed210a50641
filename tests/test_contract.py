"""The report contract, schema 1: what a machine may rely on. A change here is a new schema."""

from __future__ import annotations

import json
import math

import pytest

from surefoot import Cause, Evidence, Finding, Pathology, Remedy, Report, Severity, Verdict

PATHOLOGIES = (
    "exploding vanishing shattered collapsed spike nonfinite oscillating stalled saturated dead"
)
CAUSES = (
    "weights_too_large weights_too_small saturating_activation unbounded_activation dead_relu "
    "depth_without_skip normalization_without_skip recurrent_weights learning_rate_too_high "
    "learning_rate_too_low loss_scale input_scale bad_batch nonfinite_input dtype_overflow "
    "dtype_underflow undefined_operation output_activation_mismatch gradients_not_zeroed "
    "disconnected_parameters optimizer_state unknown"
)
FINDING = Finding(
    rule="SF101",
    pathology=Pathology.VANISHING,
    cause=Cause.SATURATING_ACTIVATION,
    severity=Severity.HARMFUL,
    sentence="Gradients shrink 4.0x a layer.",
    layer="encoder.4",
    root=True,
    victims=("encoder.0", "encoder.1"),
    first_step=0,
    last_step=899,
    confidence=0.97049,
    evidence=(Evidence("growth, decades", -3.5, "-0.87 to 0.87", 0),),
    remedies=(Remedy("init.kaiming_normal", "encoder.*", "keeps the variance", "code()"),),
)
REPORT = Report((FINDING,), 900, (), "0.1.0")


def test_the_words_are_those_of_the_contract() -> None:
    assert [str(p) for p in Pathology] == PATHOLOGIES.split()
    assert [str(c) for c in Cause] == CAUSES.split()
    assert [str(s) for s in Severity] == ["advice", "harmful", "fatal"]
    assert [str(v) for v in Verdict] == ["healthy", "unstable", "inconclusive"]


def test_a_report_in_full() -> None:
    expected = {
        "surefoot": "0.1.0",
        "schema": 1,
        "verdict": "unstable",
        "steps": 900,
        "findings": [
            {
                "rule": "SF101",
                "pathology": "vanishing",
                "cause": "saturating_activation",
                "layer": "encoder.4",
                "root": True,
                "follows": None,
                "victims": ["encoder.0", "encoder.1"],
                "severity": "harmful",
                "first_step": 0,
                "last_step": 899,
                "confidence": 0.97,
                "sentence": "Gradients shrink 4.0x a layer.",
                "evidence": [
                    {
                        "quantity": "growth, decades",
                        "value": -3.5,
                        "expected": "-0.87 to 0.87",
                        "step": 0,
                    }
                ],
                "remedies": [
                    {
                        "remedy": "init.kaiming_normal",
                        "target": "encoder.*",
                        "parameters": {},
                        "why": "keeps the variance",
                        "code": "code()",
                        "proof": None,
                    }
                ],
            }
        ],
    }
    assert json.loads(REPORT.dumps()) == expected
    assert list(json.loads(REPORT.dumps())) == list(expected)
    assert Report.from_json(expected).to_json() == expected


@pytest.mark.parametrize(
    ("severities", "missing", "verdict"),
    [
        ((), (), "healthy"),
        (("advice",), (), "healthy"),
        (("advice", "harmful"), (), "unstable"),
        (("fatal",), ("no loss",), "unstable"),
        ((), ("no loss",), "inconclusive"),
        (("advice",), ("no loss",), "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_findings(
    severities: tuple[str, ...], missing: tuple[str, ...], verdict: str
) -> None:
    findings = tuple(
        Finding("SF1", Pathology.DEAD, Cause.DEAD_RELU, Severity(s), "") for s in severities
    )
    data = Report(findings, 1, missing).to_json()
    assert data["verdict"] == verdict
    assert data.get("missing", []) == list(missing)


@pytest.mark.parametrize(("value", "word"), [(math.nan, "nan"), (math.inf, "inf")])
def test_numbers_that_json_lacks_are_words(value: float, word: str) -> None:
    finding = Finding(
        "SF201",
        Pathology.NONFINITE,
        Cause.UNKNOWN,
        Severity.FATAL,
        "",
        evidence=(Evidence("q", value, ""), Evidence("q", -value, "")),
        remedies=(Remedy("r", None, "", parameters={"to": value}),),
    )
    (data,) = json.loads(Report((finding,)).dumps(), parse_constant=pytest.fail)["findings"]
    minus = word if word == "nan" else f"-{word}"
    assert [e["value"] for e in data["evidence"]] == [word, minus]
    assert data["remedies"][0]["parameters"] == {"to": word}


def test_another_schema_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="expected a report of schema 1, got 2"):
        Report.from_json({**REPORT.to_json(), "schema": 2})


def test_what_would_not_help_is_part_of_a_finding() -> None:
    finding = Finding(
        "SF101",
        Pathology.VANISHING,
        Cause.WEIGHTS_TOO_SMALL,
        Severity.HARMFUL,
        "",
        unhelpful=(("clipping.norm", "makes no gradient larger"),),
    )
    data = finding.to_json()
    assert data["unhelpful"] == [{"remedy": "clipping.norm", "why": "makes no gradient larger"}]
    assert Finding.from_json(data) == finding
    assert "unhelpful" not in Finding("SF101", *PLAIN).to_json()


PLAIN = (Pathology.VANISHING, Cause.UNKNOWN, Severity.HARMFUL, "")
