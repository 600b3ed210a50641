"""`surefoot run --guard`: a script that knows nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from surefoot.findings import Cause, Report
from surefoot.script import HALTED

SCRIPT = """
import sys, torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
truth = torch.randn(6, 3)
bad = eval(sys.argv[1])
for step in range(200):
    x = torch.randn(32, 6)
    y = (x @ truth).argmax(1)
    if step in bad:
        x = x * float("nan")
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print(f"{loss.item():.6f}")
"""


def run(folder: Path, bad: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "surefoot", "run", "--json", "r.json", *options, "train.py"]
    return subprocess.run(
        [*command, bad], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def report(folder: Path) -> Report:
    return Report.from_json(json.loads((folder / "r.json").read_text()))


def python(folder: Path, bad: str) -> str:
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, "train.py", bad]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_healthy_script_prints_what_it_prints_under_python(tmp_path: Path) -> None:
    done = run(tmp_path, "()", "--guard")
    assert done.returncode == 0 and done.stdout == python(tmp_path, "()")
    assert report(tmp_path).guard is None and "guard" not in done.stderr


def test_one_bad_batch_is_survived_and_said(tmp_path: Path) -> None:
    assert python(tmp_path, "(100,)") == "nan\n"
    done = run(tmp_path, "(100,)", "--guard")
    assert done.returncode == 0 and float(done.stdout) < 0.5
    assert "The guard held back 1 step; first at step 100: the gradient is not finite" in (
        " ".join(done.stderr.split())
    )
    seen = report(tmp_path)
    assert seen.guard is not None and seen.guard.acts == {"skip": 1}
    assert seen.root is not None and seen.root.cause is Cause.NONFINITE_INPUT
    (page,) = tmp_path.glob("runs/*/report.html")
    assert "held back 1 step" in page.read_text()


def test_a_lost_cause_is_halted_with_a_status_of_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, "range(100, 200)", "--guard")
    assert done.returncode == HALTED == 4
    assert "halted the training" in done.stderr and "Traceback" not in done.stderr
    seen = report(tmp_path)
    assert seen.root is not None and seen.root.cause is Cause.NONFINITE_INPUT
    assert seen.guard is not None and seen.guard.acts["halt"] == 1


@pytest.mark.zoo
def test_a_dry_run_changes_nothing_and_says_what_it_would_have_done(tmp_path: Path) -> None:
    done = run(tmp_path, "(100,)", "--guard", "--dry-run", "--no-record")
    assert done.returncode == 0 and done.stdout == "nan\n"
    assert "In a dry run, the guard would have held back" in " ".join(done.stderr.split())


def test_a_dry_run_without_a_guard_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "()", "--dry-run")
    assert done.returncode == 2 and "expected --guard with --dry-run" in done.stderr


@pytest.mark.zoo
def test_the_scripts_own_guard_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = SCRIPT.replace("truth =", "import surefoot\nmine = surefoot.guard(optimizer)\ntruth =")
    own += "print(mine.skipped, len(optimizer._optimizer_step_pre_hooks))\n"
    (tmp_path / "own.py").write_text(own)
    command = [sys.executable, "-m", "surefoot", "run", "--guard", "--no-record", "own.py", "(9,)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("\n1 1\n"), done.stderr


@pytest.mark.zoo
def test_parameters_that_no_module_owns_are_guarded_too(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "import torch\n"
        "p = torch.zeros(5, requires_grad=True)\n"
        "optimizer = torch.optim.SGD([p], lr=0.1)\n"
        "for i in range(40):\n"
        "    optimizer.zero_grad()\n"
        "    ((p - 1) ** 2).sum().mul(float('nan') if i == 9 else 1.0).backward()\n"
        "    optimizer.step()\n"
        "print(p.sum().item() > 4.9)\n"
    )
    command = [sys.executable, "-m", "surefoot", "run", "--guard", "--no-record", "bare.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n" and "held back 1 step" in done.stderr


@pytest.mark.zoo
@pytest.mark.parametrize("options", [("--no-forensics",), ("--quiet",)])
def test_it_goes_with_other_options(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, "(50, 51)", "--guard", *options)
    seen = report(tmp_path).guard
    assert done.returncode == 0 and seen is not None and seen.acts == {"skip": 2}
