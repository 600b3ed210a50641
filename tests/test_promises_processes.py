"""Promise: of several processes at one place each keeps its own, and nothing is lost.

Also: forks, spawned processes and signals that come while surefoot watches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import kills
from cli_fixture import ENVIRONMENT
from record_fixture import REPORT, TABLE
from surefoot.record import RecordError, Writer, list_runs, new_folder, read_run
from surefoot.watching.session import Session

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def at_once(count: int, work: Callable[[int], None]) -> list[int]:
    """Run `work(number)` in as many forks, let go at the same moment; their exit statuses."""
    gate, open_gate = os.pipe()
    children = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(open_gate)
                os.read(gate, 1)  # until the parent closes it
                work(number)
                status = 0
            except RecordError:
                status = 7
            finally:
                os._exit(status)
        children.append(pid)
    os.close(gate)
    os.close(open_gate)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def write(folder: Path, number: int) -> None:
    writer = Writer(folder, {"number": number})
    writer.declare(0, TABLE, {"x": 1})
    for step in range(200):
        writer.put(0, step, {"x": np.array([1000 * number + step])})
    writer.close(REPORT)
    assert writer.problem is None


@pytest.mark.parametrize("name", ["same", None])
def test_processes_that_ask_for_one_name_get_folders_of_their_own(
    tmp_path: Path, name: str | None
) -> None:
    statuses = at_once(6, lambda n: write(new_folder(tmp_path / "runs", name, "train.py"), n))
    assert statuses == [0] * 6
    runs = list_runs(tmp_path / "runs")
    assert len(runs) == 6
    found = {}
    for summary in runs:
        run = read_run(summary.path)
        found[run.environment["number"]] = run.series["x"].last.ravel().tolist()
    assert found == {n: [1000 * n + step for step in range(200)] for n in range(6)}


def test_of_processes_on_one_folder_one_writes_and_the_others_are_told(tmp_path: Path) -> None:
    statuses = at_once(6, lambda n: write(tmp_path, n))
    assert sorted(statuses) == [0, 7, 7, 7, 7, 7]
    run = read_run(tmp_path)
    n = run.environment["number"]
    assert statuses[n] == 0
    assert run.series["x"].last.ravel().tolist() == [1000 * n + step for step in range(200)]


def test_two_whole_runs_at_once_under_one_name(tmp_path: Path) -> None:
    """`surefoot run --name same`, twice at the same moment, to the verdict of each."""
    runs = tmp_path / "runs"
    runs.mkdir()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    waits = [kills.as_a_fork(runs, nowhere, 60)[1] for _ in range(2)]
    for wait in waits:
        wait()
    os.close(nowhere)
    assert {path.name for path in runs.iterdir()} == {"same", "same-2"}
    for path in runs.iterdir():
        assert {p.name for p in path.iterdir()} == kills.FILES
        series = read_run(path).series["loss"]
        np.testing.assert_array_equal(series.last[:, 0], kills.expected(np.arange(60))[0])


def test_handlers_of_the_script_are_called_while_it_is_watched(tmp_path: Path) -> None:
    """In the midst of a watched step; neither is replaced, nor does what was sent get lost."""
    heard: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {n: signal.signal(n, lambda number, frame: heard.append(number)) for n in numbers}
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    session = Session(folder=new_folder(tmp_path), guard="dry run")
    session.start()
    try:
        session.watch(model, optimizer)
        model.register_forward_hook(lambda *_: os.kill(os.getpid(), numbers[len(heard) % 3]))
        for _ in range(30):
            optimizer.zero_grad()
            model(torch.ones(8, 4)).square().mean().backward()
            optimizer.step()
    finally:
        session.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == list(numbers) * 10
    assert session.report().steps == 30 and session._error is None


SCRIPT = """
import multiprocessing, os, signal, sys, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
heard = []

def train(steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return model.weight.sum().item().hex()

def child():
    print("child", __name__, train(5), flush=True)

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda n, frame: heard.append(n))
    print(train(10))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
        print(train(3), heard, flush=True)
    if os.fork() == 0:
        child()
        sys.exit(0)
    print(os.wait()[1], flush=True)
    for method in ("fork", "spawn"):
        process = multiprocessing.get_context(method).Process(target=child)
        process.start()
        process.join()
        print(method, process.exitcode, flush=True)
    print(train(10))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forks_spawned_processes_and_signals_of_the_script(tmp_path: Path) -> None:
    """What is printed is the same to the bit, and only the parent's steps are recorded."""
    (tmp_path / "train.py").write_text(SCRIPT)
    found = []
    for command in ([], ["-m", "surefoot", "run", "--name", "a"]):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command, "train.py"],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        found.append((done.returncode, done.stdout))
        assert "Traceback" not in done.stderr, done.stderr
    assert found[0] == found[1]
    heard = [int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGUSR1)]
    assert str(heard) in found[0][1]
    assert found[0][1].count("child") == 3 and "__mp_main__" in found[0][1]
    (run,) = list_runs(tmp_path / "runs")
    assert run.problem is None and not run.live
    assert read_run(run.path).report.steps == 29
