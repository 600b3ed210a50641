"""The example scripts are what they claim: strangers to surefoot, deterministic, ill or healthy."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
NAMES = [path.stem for path in SCRIPTS]
HEALTHY = {"digits_healthy"}


def output(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    """What the script prints when it is run with these arguments."""
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


def accuracy(line: str) -> float:
    """The accuracy in the last line of an example: 28/357, 98.3% or 0.983."""
    if found := re.search(r"(\d+)/(\d+)", line):
        return int(found[1]) / int(found[2])
    if found := re.search(r"([\d.]+)%", line):
        return float(found[1]) / 100
    return float(re.findall(r"[\d.]+", line)[-1])


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_it_knows_nothing_of_surefoot(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    ast.parse(text)
    assert "surefoot" not in text


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_same_seed_same_run(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = output(script, capsys, monkeypatch, "--steps", "3", "--seed", "5")
    assert re.search(r"\d\.\d", first)
    assert output(script, capsys, monkeypatch, "--steps", "3", "--seed", "5") == first
    assert output(script, capsys, monkeypatch, "--steps", "3", "--seed", "6") != first


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_the_loss_scale_changes_nothing(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power of two, divided out of the learning rate, is exact."""
    plain = output(script, capsys, monkeypatch, "--steps", "3")
    assert output(script, capsys, monkeypatch, "--steps", "3", "--loss-scale", "128") == plain


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_it_is_ill_or_healthy(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = accuracy(output(script, capsys, monkeypatch).splitlines()[-1])
    assert reached > 0.95 if script.stem in HEALTHY else reached < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "at_least"),
    [
        ("digits_exploding", ("--gain", "1"), 0.7),
        ("digits_bad_batch", ("--bad-shard", "-1"), 0.95),
        ("digits_learning_rate", ("--lr", "0.1"), 0.85),
        ("digits_nan", ("--batch-size", "30"), 0.7),
        ("recurrent_exploding", ("--spread", "1"), 0.3),
    ],
)
def test_without_its_fault_it_learns(
    name: str,
    words: tuple[str, str],
    at_least: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault is the one that the script names, and nothing else."""
    script = SCRIPTS[NAMES.index(name)]
    assert accuracy(output(script, capsys, monkeypatch, *words).splitlines()[-1]) > at_least
