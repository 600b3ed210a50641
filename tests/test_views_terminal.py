"""The verdict in the terminal: it says everything, fits, and never fails."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from surefoot.findings import Cause, Finding, Pathology, Report, Severity
from surefoot.views.terminal import print_verdict
from views_fixture import FIXTURES


def printed(report: Report, width: int, encoding: str = "utf-8", **paths: str) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    print_verdict(report, console=console, **paths)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_terminal_fits_and_never_fails(fixture: str, encoding: str, width: int) -> None:
    text = printed(FIXTURES[fixture]().report, width, encoding)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 100])
def test_terminal_verdict_says_everything(width: int) -> None:
    path = "/very/long/path" * 12 + "/report.html"
    text = printed(FIXTURES["vanishing"]().report, width, report_path=path)
    flat = " ".join(re.sub("[\u2500-\u257f]", " ", text).split())
    first_lines = " ".join(text.splitlines()[1:3])
    for fact in ("UNSTABLE  vanishing gradients", "starts at layers.18", "since step 0"):
        assert fact in first_lines
    for fact in (
        "cause: saturating activation",
        "Gradients shrink 4.0x per layer",
        "Do first: activation.relu on layers.*",
        "if isinstance(module, nn.Sigmoid):",
        "Symptom only: layers.0, layers.2, layers.4, layers.6 and 5 more",
        "SF301 stalled training",
        "follows from SF101",
        "3.81e-6",
    ):
        assert fact in flat
    assert f"Report: {path}\n" in text
    assert f"in a browser: file://{path}\n" in text


def test_terminal_healthy_takes_two_lines() -> None:
    text = printed(FIXTURES["healthy"]().report, 60, report_path="/r.html")
    assert text == "HEALTHY  300 steps watched, nothing wrong found.\nReport: /r.html\n"
    assert "Run folder: /runs/a\n" in printed(FIXTURES["healthy"]().report, 60, folder="/runs/a")
    assert "SF204 saturated units" in printed(FIXTURES["advised"]().report, 100)


def test_terminal_inconclusive_names_the_next_command() -> None:
    text = printed(FIXTURES["inconclusive"]().report, 100)
    assert text.startswith("INCONCLUSIVE  3 steps watched")
    assert "surefoot check" in " ".join(text.split())


def test_terminal_prints_names_as_they_are() -> None:
    finding = Finding("SF1", Pathology.DEAD, Cause.DEAD_RELU, Severity.FATAL, "[red]s[/red]", "[b]")
    text = printed(Report((finding,), 3), 100)
    assert "starts at [b]" in text
    assert "[red]s[/red]" in text
