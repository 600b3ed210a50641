"""`surefoot prove` as a stranger uses it: builds, recorded runs, interrupts, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from surefoot.cli import cli
from surefoot.files import replace_text
from surefoot.trial.arm import Arm, Spec
from surefoot.trial.runner import Processes
from surefoot.trial.spared import Spared

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
BUILD = """
import time, torch
from torch import nn
print("on standard output")
def build(rate=30.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(32, 8)
    batch = x, (x[:, 0] > 0).long()
    return model, batch, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=rate)
def calm():
    return build(0.1)
def slow():
    model, batch, loss, optimizer = build()
    def late(output, target):
        time.sleep(0.2)
        return loss(output, target)
    return model, batch, late, optimizer
def bare():
    return build()[:3]
"""
# Saves in three ways, swallows the end of its trial, and leaves a thread and an atexit handler.
SCRIPT = """
import atexit, os, sys, threading, time, torch
from pathlib import Path
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
x = torch.randn(32, 8)
tried = "surefoot.trial.arm" in sys.modules
atexit.register(lambda: Path("left.txt").write_text("atexit") if tried else None)
threading.Thread(target=lambda: time.sleep(300 if tried else 0)).start()
for step in range(24):
    try:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    except BaseException:
        if not tried:
            raise
    torch.save([step, tried], "draft.pt")
    os.replace("draft.pt", sys.argv[1])
    assert torch.load(sys.argv[1]) == [step, tried] and Path(sys.argv[1]).exists()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pröject of mine"
    folder.mkdir()
    (folder / "train_it.py").write_text(BUILD)
    monkeypatch.chdir(folder)
    return folder


def surefoot(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "surefoot", *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, **how)


def children(parent: int) -> list[int]:
    words = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(one) for file in words for one in file.read_text().split()]


def test_a_remedy_is_proven_and_written(project: Path) -> None:
    said = surefoot(
        *("prove", "train_it.py:build", "--remedy", "learning_rate.scale", "--steps", "24"),
        *("--seeds", "2", "--json", "-", "-o", "new/p.html", "--patch", "new/p.patch"),
    )
    assert said.returncode == 0, said.stderr
    proof = json.loads(said.stdout)  # what the project prints is not in it
    assert "on standard output" in said.stderr
    (trial,) = proof["trials"]
    assert proof["finding"]["cause"] == "learning_rate_too_high"
    assert trial["remedy"] == "learning_rate.scale" and trial["cured"]
    assert trial["effect"]["pairs"] == 2 and proof["steps"] == 24
    assert trial["effect"]["after"] < 0.5 * trial["effect"]["before"]
    assert (project / "new" / "p.html").read_text(encoding="utf-8").endswith("</html>")
    assert (project / "new" / "p.patch").exists() is bool(proof["patch"])


def test_a_recorded_run_is_run_again_and_loses_nothing(project: Path) -> None:
    (project / "a script.py").write_text(SCRIPT)
    said = surefoot("run", "--quiet", "--name", "one", "a script.py", "ck pt.pt")
    assert said.returncode == 0, said.stderr
    kept = (project / "ck pt.pt").read_bytes()
    files = sorted(os.listdir(project))
    said = surefoot("prove", "runs/one", "--json", "p.json", timeout=60)
    assert said.returncode == 0, said.stderr
    assert "NOTHING TO REPAIR" in said.stdout
    proof = json.loads((project / "p.json").read_text())
    assert [step for step, _ in proof["before"]] == list(range(24))
    assert (project / "ck pt.pt").read_bytes() == kept
    assert sorted(os.listdir(project)) == sorted([*files, "p.json"])
    (project / "a script.py").unlink()
    said = surefoot("prove", "runs/one")
    assert said.returncode == 1 and "was it moved?" in " ".join(said.stderr.split())


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_broken_off_it_keeps_what_is_done_and_leaves_nothing(project: Path, what: int) -> None:
    scratch = project / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "surefoot", "prove", "train_it.py:slow", "--json", "p.json"]
    proving = subprocess.Popen(
        command, env=ENVIRONMENT | {"TMPDIR": str(scratch)}, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (arms := children(proving.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    proving.send_signal(what)
    shown, _ = proving.communicate(timeout=20)
    until = time.monotonic() + 5
    while any(alive(arm) for arm in arms) and time.monotonic() < until:
        time.sleep(0.05)
    assert arms and not any(alive(arm) for arm in arms)
    if what != signal.SIGKILL:
        assert proving.returncode == 0 and "Broken off" in shown
        assert json.loads((project / "p.json").read_text())["partial"] is True
        assert not list(scratch.glob("surefoot-trial-*"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_slips_are_told_before_the_first_run(project: Path) -> None:
    (project / "file").write_text("")
    (project / "runs").mkdir()
    slips = {
        ("train_it.py",): "surefoot run --name NAME train_it.py",
        ("runs/none",): "there is no folder runs/none",
        ("runs",): "run folder",
        ("train_it.py:buidl",): "did you mean train_it.py:build?",
        ("train_it.py:build", "--remedy", "init.kaimin"): "did you mean init.kaiming_normal?",
        ("train_it.py:build", "--json", "file/p.json"): "cannot write file/p.json",
        ("train_it.py:build", "--budget", "soon"): "expected a time as 90s",
        ("train_it.py:build", "--budget", "0"): "expected a time as 90s",
        ("train_it.py:build", "--seeds", "1"): "--seeds",
    }
    began = time.monotonic()
    for words, said in slips.items():
        result = CliRunner().invoke(cli, ["prove", *words])
        assert result.exit_code in (1, 2)
        assert said in " ".join(result.output.split()), (words, result.output)
    assert time.monotonic() - began < 10


def test_a_build_without_optimizer_is_told(project: Path) -> None:
    result = CliRunner().invoke(cli, ["prove", "train_it.py:bare", "--quiet"])
    assert result.exit_code == 1 and "expected an optimizer" in result.output


def test_an_unwritable_page_costs_only_the_page(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str, **how: Any) -> None:
        if path.suffix == ".html":
            raise OSError(28, "No space left on device")
        replace_text(path, text, **how)

    monkeypatch.setattr("surefoot.cli.shared.replace_text", full)
    words = ["prove", "train_it.py:calm", "--steps", "20", "-o", "p.html", "--json", "p.json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1 and "No space left on device" in result.output
    assert "NOTHING TO REPAIR" in result.output and (project / "p.json").exists()


def test_an_arm_that_dies_is_no_result_and_time_ends_one_that_hangs(project: Path) -> None:
    (project / "dies.py").write_text("print('last words', flush=True)\nimport os\nos._exit(9)\n")
    (project / "hangs.py").write_text("import time\ntime.sleep(300)\n")
    began = time.monotonic()
    specs = [Spec(f"{name}.py", script=True, cwd=str(project)) for name in ("dies", "hangs")]
    arms = dict(Processes(2).run(specs, began + 5))
    assert list(arms) == [0] and time.monotonic() - began < 15
    assert isinstance(arms[0], Arm) and not arms[0].ran and arms[0].words == "last words"


def test_what_was_saved_is_found_moved_and_dropped(tmp_path: Path) -> None:
    import shutil

    import torch

    (tmp_path / "best.pt").write_text("precious")
    elsewhere, best = tmp_path / "elsewhere", tmp_path / "best.pt"
    elsewhere.mkdir()
    before = torch.save, torch.load, os.stat, os.replace, os.remove
    spared = Spared(elsewhere)
    spared.install()
    try:
        torch.save([1], tmp_path / "last.pt")
        assert (tmp_path / "last.pt").exists() and torch.load(tmp_path / "last.pt") == [1]
        shutil.copy(tmp_path / "last.pt", best)
        torch.save([2], str(tmp_path / "last.pt"))
        assert torch.load(best) == [1] and torch.load(tmp_path / "last.pt") == [2]
        (tmp_path / "last.pt").rename(best)
        assert torch.load(best) == [2] and not (tmp_path / "last.pt").exists()
        best.unlink()
        assert best.read_text() == "precious"
    finally:
        spared.remove()
    assert before == (torch.save, torch.load, os.stat, os.replace, os.remove)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "elsewhere"]
