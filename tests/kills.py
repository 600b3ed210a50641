"""Trainings under `surefoot run`, killed with -9 at random moments, and what their folders hold.

The training's rows follow from the step alone, so that each of them is known. `python -m
tests.kills 200` kills as many real processes, two at a time, and tells what became of them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surefoot.record import Follower, RecordError, list_runs, read_run

ENDLESS = 10**9
# The journal is of the moment when the log is given up at the end; a part that of a draft.
SIDES = {f"run.sqlite-{kind}" for kind in ("wal", "shm", "journal")}
FILES = {"run.sqlite", "run.json", "report.html"}
ENDS = ("closes the record", "writes run.json", "has written run.json")
OVER = (1 << 62).to_bytes(8, "little")  # the training's last word: now comes the verdict

SCRIPT = """
import os, sys
import torch
from surefoot.record import Writer
from surefoot.watching.session import _RUNNING

Writer.INTERVAL_SECONDS = 0.002
torch.set_num_threads(1)
pipe, steps = int(sys.argv[1]), int(sys.argv[2])
model = torch.nn.Linear(4, 1, bias=False)
torch.nn.init.constant_(model.weight, 0.25)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
x, told = torch.ones(1, 4), -1
(session,) = _RUNNING
for step in range(steps):
    optimizer.zero_grad()
    factor = 1 + step % 512
    (model(x).sum() * factor + step).backward()
    optimizer.step()
    safe = session._writer.committed.get(0, -1)
    if safe > told:
        os.write(pipe, safe.to_bytes(8, "little"))
        told = safe
os.write(pipe, (1 << 62).to_bytes(8, "little"))
"""


def expected(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss [S] and gradient [S, 5] of these steps: four weights, each with the gradient `factor`.

    Its columns are norm, root mean square, largest, share of zeros, share that is not finite.
    """
    factor = 1 + steps % 512
    zero = np.zeros_like(steps)
    return factor + steps, np.stack([2 * factor, factor, factor, zero, zero], axis=1)


@dataclass(frozen=True)
class Killed:
    """moment: what the process was about; told: the last step that was said to be committed."""

    folder: Path | None
    moment: str
    told: int


Begin = Callable[[Path, int, int], tuple[int, Callable[[], object]]]


def as_a_program(runs: Path, pipe: int, steps: int) -> tuple[int, Callable[[], object]]:
    """Begin a real `surefoot run`; (its pid, what waits for its end)."""
    process = subprocess.Popen(
        [sys.executable, *words(runs, pipe, steps)],
        cwd=runs.parent, pass_fds=[pipe], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return process.pid, process.wait


def as_a_fork(runs: Path, pipe: int, steps: int) -> tuple[int, Callable[[], object]]:
    """The same in a fork of this process, which has imported all that it needs."""
    from surefoot.cli import main

    preload()
    pid = os.fork()
    if pid:
        return pid, lambda: os.waitpid(pid, 0)
    try:
        os.chdir(runs.parent)
        silence = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(silence, number)
        sys.stdout = sys.stderr = os.fdopen(silence, "w")
        sys.argv = words(runs, pipe, steps)[1:]
        main()
    finally:
        os._exit(0)


def preload() -> None:
    """Import what a run imports from its beginning to its end."""
    import plotly.graph_objects
    import torch

    import surefoot.progress
    import surefoot.views.report
    import surefoot.views.terminal
    import surefoot.watching.session

    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.0)  # imports the compiler
    assert plotly.graph_objects and surefoot.views.report and surefoot.views.terminal
    assert surefoot.progress and surefoot.watching.session


def words(runs: Path, pipe: int, steps: int) -> list[str]:
    """The command line, as of `python`; all runs ask for the same name."""
    script = runs.parent / "train.py"
    script.write_text(SCRIPT)
    return ["-m", "surefoot", "run", "--runs", str(runs), "--name", "same", str(script),
            str(pipe), str(steps)]  # fmt: skip


def kill(begin: Begin, runs: Path, seed: int, startup: float) -> Killed:
    """Begin a run and kill it: while it starts, while it trains, or in one of the parts of its end.

    Of ten seeds in a row those are one, six and three. Every other start has its folder already.
    """
    chance = random.Random(seed)
    moment = {0: "starts", 1: ENDS[0], 2: ENDS[1], 3: ENDS[2]}.get(seed % 10, "trains")
    before = {path.name for path in runs.iterdir()}
    reading, writing = os.pipe()
    steps = chance.randint(200, 900) if moment in ENDS else ENDLESS
    pid, wait = begin(runs, writing, steps)
    os.close(writing)
    told = b""
    try:
        if moment == "starts" and seed % 20:
            _until(lambda: any(path.name not in before for path in runs.iterdir()))
            time.sleep(chance.random() ** 2 * 0.1)
        elif moment == "starts":
            time.sleep(chance.random() * startup)
        elif moment == "trains":
            for _ in range(chance.choice([1, 1, 2, 5, 20, 60])):
                told += _heard(reading)
            time.sleep(chance.random() * 0.02)
        else:
            while not told.endswith(OVER):
                told += _heard(reading)
            (folder,) = [path for path in runs.iterdir() if path.name not in before]
            _come_to(moment, folder, chance, startup)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            moment = "had ended"  # the kill comes too late
    finally:
        os.kill(pid, signal.SIGKILL)
        wait()
    while rest := os.read(reading, 1 << 16):
        told += rest
    os.close(reading)
    said = [int.from_bytes(told[i : i + 8], "little") for i in range(0, len(told), 8)]
    new = [path for path in runs.iterdir() if path.name not in before]
    assert len(new) <= 1, new
    return Killed(new[0] if new else None, moment, max([s for s in said if s < 1 << 62] or [-1]))


def _heard(reading: int) -> bytes:
    word = os.read(reading, 8)
    assert word, "the run ended before its time"
    return word


def _until(come: Callable[[], bool]) -> None:
    """Return within a millisecond of the moment."""
    limit = time.monotonic() + 120
    while not come():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.0003)


def _come_to(moment: str, folder: Path, chance: random.Random, startup: float) -> None:
    """Wait from the training's last word until a random time within one of `ENDS`.

    The log is given up in 30 to 100 ms, the draft of run.json lives for 3 to 20 ms, and the pages
    for the user, the verdict and Python's own end take seconds.
    """
    if moment == ENDS[0]:
        time.sleep(chance.random() * 0.06)
        return
    drafts = (".run.json.",) if moment == ENDS[1] else ()
    begun = ("run.json", *drafts)
    _until(lambda: any(name.startswith(begun) for name in os.listdir(folder)))
    time.sleep(chance.random() * (0.004 if drafts else startup * 0.6))


def examine(killed: Killed) -> str:
    """Assert that nothing is lost of what was said to be committed; what the folder holds."""
    folder = killed.folder
    if folder is None or not (folder / "run.sqlite").exists():
        assert killed.told == -1, killed
        return "nothing yet"
    left = {path.name for path in folder.iterdir()} - FILES - SIDES
    assert all(name.endswith(".part") for name in left), left
    (summary,) = [run for run in list_runs(folder.parent) if run.name == folder.name]
    assert not summary.live
    try:
        run = read_run(folder, buckets=10**6)
    except RecordError:
        assert killed.told == -1, killed
        return f"a beginning: {summary.problem}"
    follower = Follower(folder, buckets=10**6)
    assert follower.poll() and not follower.live
    for data in (run, follower.data):
        if "loss" not in data.series:
            assert killed.told == -1, killed
            return "no step yet"
        series = data.series["loss"]
        assert series.steps.tolist() == list(range(len(series)))
        assert series.steps[-1] >= killed.told, (killed, series.steps[-1])
        loss, gradient = expected(series.steps)
        np.testing.assert_array_equal(series.last[:, 0], loss)
        np.testing.assert_array_equal(data.series["gradient"].last, gradient)
        if (folder / "run.json").exists():
            assert data.report.steps == len(series)
    return _how_far(folder)


def _how_far(folder: Path) -> str:
    """How far the end of a run came, by its files."""
    names = {path.name for path in folder.iterdir()}
    if "report.html" in names:
        assert (folder / "report.html").read_text("utf-8").rstrip().endswith("</html>")
        return "run.json and report.html"
    draft = next((name.split(".")[1] for name in names if name.endswith(".part")), None)
    if "run.json" in names:
        return "run.json and a draft of report.html" if draft == "report" else "run.json"
    if draft:
        return "a draft of run.json"
    return "the record" if "run.sqlite-wal" in names else "the record without its log"


def complete(begin: Begin, runs: Path) -> None:
    """Assert that another run in the same folder, under the same name, comes to its end."""
    before = {path.name for path in runs.iterdir()}
    reading, writing = os.pipe()
    wait = begin(runs, writing, 50)[1]
    os.close(writing)
    wait()
    os.close(reading)
    (folder,) = [path for path in runs.iterdir() if path.name not in before]
    assert {p.name for p in folder.iterdir()} == FILES
    run = read_run(folder)
    assert run.report.steps == 50 and len(run.series["loss"]) == 50
    assert str(run.report.verdict) == "healthy"


def main() -> None:
    """Kill as many real runs as are asked for, and print what was found of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--startup", type=float, default=5.0, help="seconds until it trains")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:

        def one(seed: int) -> tuple[str, str, str]:
            runs = Path(name, f"of {seed % 2}", "runs")
            runs.mkdir(parents=True, exist_ok=True)
            killed = kill(as_a_program, runs, seed, asked.startup)
            found = examine(killed)
            committed = "some steps announced" if killed.told >= 0 else "no step announced"
            return killed.moment, committed, found

        with ThreadPoolExecutor(1) as even, ThreadPoolExecutor(1) as odd:
            pools = (even, odd)  # each in a folder of its own
            results = [pools[seed % 2].submit(one, seed) for seed in range(asked.count)]
            counted = Counter(result.result() for result in results)
        for part in Path(name).iterdir():
            complete(as_a_program, part / "runs")
    for (moment, committed, found), count in sorted(counted.items()):
        print(f"{count:4} killed while it {moment}; {committed}; left: {found}")


if __name__ == "__main__":
    main()
