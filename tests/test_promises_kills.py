"""Promise: no step that was committed is lost by `kill -9`, and every folder opens.

Ten kills of forked runs here; `python -m tests.kills 200` kills real programs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import kills

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
@pytest.mark.zoo
def test_nothing_committed_is_lost_whenever_it_is_killed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    moments: Counter[str] = Counter()
    announced = 0
    for seed in range(10):
        killed = kills.kill(kills.as_a_fork, runs, seed, startup=0.3)
        kills.examine(killed)
        moments[killed.moment] += 1
        announced += killed.told >= 0
    assert moments == {"starts": 1, "trains": 6} | dict.fromkeys(kills.ENDS, 1)
    assert announced >= 8  # the kills did come in between
    kills.complete(kills.as_a_fork, runs)


@pytest.mark.long
@pytest.mark.timeout(14400)
def test_two_hundred_programs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "200"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        found[line.rpartition(": ")[2]] += int(line.split()[0])
    assert found.total() == 200
    print(done.stdout)
    # They did come before, while and after run.json was written.
    assert found["the record"] and found["the record without its log"]
    assert found["a draft of run.json"] and found["run.json"] and found["run.json and report.html"]
