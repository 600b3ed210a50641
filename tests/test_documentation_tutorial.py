"""The tutorial's commands, as they stand there, from the broken run to the healthy one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from documents_fixture import ROOT, Block, assert_told, blocks, commands, documents

PAGE = "docs/tutorial.md"
# What a test cannot wait for, or has done already.
_LEFT_OUT = {"pip", "surefoot view"}

# In the suite only the remedy that wins is tried, in two pairs; `./dev zoo` tries all.
_QUICK = ("--remedy", "residual.rezero", "--seeds", "2")


def _run(words: Sequence[str], folder: Path) -> str:
    """Standard output and standard error of a command that succeeds."""
    program = [sys.executable, "-m", "surefoot"] if words[0] == "surefoot" else [words[0]]
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [*program, *words[1:]],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _followed(folder: Path, quick: bool) -> dict[str, str]:
    """The output of each command of the page, which are run in their order."""
    told: dict[str, str] = {}
    for block in blocks(PAGE, documents()[PAGE]):
        if block.file:
            (folder / block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "":
            for words in commands(block):
                if words[0] in _LEFT_OUT or " ".join(words) in _LEFT_OUT:
                    continue
                more = _QUICK if quick and words[1] == "prove" else ()
                told[" ".join(words)] = _run([*words, *more], folder)
        elif block.language == "text":
            _compared(block, told, quick)
    return told


def _compared(block: Block, told: dict[str, str], quick: bool) -> None:
    command = block.note.removeprefix("output of: ")
    if quick and " prove " in command and "PROVEN" in block.code:
        return  # fewer remedies were tried
    assert_told(block, told[command])


def _follow(folder: Path, quick: bool) -> None:
    pytest.importorskip("sklearn")
    if shutil.which("patch") is None:
        pytest.skip("there is no patch")
    told = _followed(folder, quick)
    accuracy = {
        name: [float(x) for x in re.findall(r"accuracy ([\d.]+)%", output)]
        for name, output in told.items()
    }
    first, second = "surefoot run --name first train.py", "surefoot run --name second train.py"
    before = json.loads((folder / "runs/first/run.json").read_text())
    after = json.loads((folder / "runs/second/run.json").read_text())
    proof = json.loads((folder / "runs/first/proof.json").read_text())
    assert (before["verdict"], after["verdict"]) == ("unstable", "healthy")
    assert before["findings"][0]["rule"] == "SF101"
    assert before["findings"][0]["cause"] == "saturating_activation"
    assert proof["winner"] == "residual.rezero"
    outcomes = {trial["remedy"]: trial["outcome"] for trial in proof["trials"]}
    assert outcomes["residual.rezero"] == "proven"
    # ten classes: chance is 10 %, and a linear model on raw pixels reaches 90 %
    assert max(accuracy[first]) < 15 and accuracy[second][-1] > 70
    assert len(told) == 4


@pytest.mark.zoo
@pytest.mark.timeout(400)
def test_the_tutorial_ends_with_a_proven_fix_and_a_healthy_run(workdir: Path) -> None:
    _follow(workdir, quick=True)


@pytest.mark.zoo
@pytest.mark.timeout(900)
def test_the_whole_tutorial_with_every_remedy(workdir: Path) -> None:
    _follow(workdir, quick=False)


def test_the_verdict_in_the_readme_is_that_of_the_demo(workdir: Path) -> None:
    pytest.importorskip("sklearn")
    (block,) = (b for b in blocks("README.md", documents()["README.md"]) if "output of" in b.note)
    script = str(ROOT / block.note.rpartition(" ")[2])
    assert_told(block, _run(["surefoot", "run", "--no-record", script, "--epochs", "2"], workdir))
