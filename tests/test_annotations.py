"""Findings as GitHub's workflow commands, read back by the rules of its runner."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli_fixture import ENVIRONMENT
from surefoot.cli import cli
from surefoot.findings import Cause, Finding, Pathology, Remedy, Report, Severity
from surefoot.views.annotations import annotations


def read(text: str) -> list[tuple[str, dict[str, str], str]]:
    """(level, properties, message) of each line, unescaped as actions/runner does it."""
    found = []
    for line in text.splitlines():
        level, head, message = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()  # type: ignore[union-attr]
        pairs = dict(pair.split("=", 1) for pair in head.split(","))
        for code, c in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            pairs = {k: v.replace(code, c) for k, v in pairs.items()}
            if code not in ("%3A", "%2C"):
                message = message.replace(code, c)
        found.append((level, pairs, message))
    return found


def finding(severity: Severity, **fields: object) -> Finding:
    return Finding(
        "SF101",
        Pathology.VANISHING,
        Cause.UNKNOWN,
        severity,
        **{"sentence": "Gradients fade", "layer": "encoder.4", **fields},  # type: ignore[arg-type]
    )


def test_levels() -> None:
    report = Report(tuple(map(finding, (Severity.FATAL, Severity.HARMFUL, Severity.ADVICE))))
    assert [level for level, _, _ in read(annotations(report))] == ["error", "error", "notice"]
    assert annotations(Report()) == ""


def test_words() -> None:
    remedy = Remedy("init.kaiming_normal", "encoder.*", "it keeps 100 % of it")
    ((_, properties, message),) = read(
        annotations(Report((finding(Severity.FATAL, remedies=(remedy,)),)))
    )
    assert properties == {"title": "surefoot SF101: vanishing gradients at encoder.4"}
    assert message.splitlines() == [
        "Gradients fade.",
        "Remedy: init.kaiming_normal on encoder.*. It keeps 100 % of it.",
        "More: surefoot explain SF101",
    ]


@pytest.mark.parametrize(
    "name", ["a::b", "a,b=c", "x\n::error::evil", "50%0Aoff", "\r::set-env name=A::b", "a\x1b[2J"]
)
def test_no_name_ends_a_command(name: str) -> None:
    text = annotations(Report((finding(Severity.FATAL, layer=name, sentence=name),)))
    assert len(text.splitlines()) == 1
    ((_, properties, message),) = read(text)
    shown = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(name.split()))
    assert properties["title"].endswith(f"at {shown}")
    assert message.lower().startswith(shown.lower())


def test_the_file_from_the_root_of_the_repository(tmp_path: Path) -> None:
    report = Report((finding(Severity.FATAL),))
    workspace = {"GITHUB_WORKSPACE": str(tmp_path)}
    for file, expected in (
        (tmp_path / "src" / "train, a:b.py", "src/train, a:b.py"),
        (Path("/elsewhere/train.py"), "/elsewhere/train.py"),
    ):
        ((_, properties, _),) = read(annotations(report, file, workspace))
        assert properties["file"] == expected
    assert "file=" not in annotations(report, None, workspace)


BUILD = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = [m for _ in range(10) for m in (nn.Linear(64, 64), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(64, 2))
    return model, (torch.randn(64, 64), torch.randint(2, (64,))), nn.CrossEntropyLoss()
"""


def test_check(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "model.py").write_text(BUILD)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert CliRunner().invoke(cli, ["check", "model.py:build"]).stderr == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(workdir))
    result = CliRunner().invoke(cli, ["check", "model.py:build"])
    found = read(result.stderr)
    assert found[0][0] == "error"
    assert {properties["file"] for _, properties, _ in found} == {"model.py"}
    assert "::error" not in result.stdout
    assert CliRunner().invoke(cli, ["check", "--quiet", "model.py:build"]).stderr == ""


TRAIN = """
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for k in range(5):
    optimizer.zero_grad()
    (model(torch.ones(2, 3)).square().mean() * (float("nan") if k > 2 else 1)).backward()
    optimizer.step()
print("done")
"""


def test_run(workdir: Path) -> None:
    import subprocess
    import sys

    (workdir / "train.py").write_text(TRAIN)
    workflow = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(workdir)}
    for extra in (workflow, {"GITHUB_ACTIONS": ""}):
        done = subprocess.run(
            [sys.executable, "-m", "surefoot", "run", "--no-record", "train.py"],
            env={**ENVIRONMENT, **extra}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "done\n")
        lines = [line for line in done.stderr.splitlines() if line.startswith("::")]
        if extra is workflow:
            ((level, properties, _), *_) = read("\n".join(lines))
            assert (level, properties["file"]) == ("error", "train.py")
        else:
            assert lines == []
