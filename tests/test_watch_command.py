"""`surefoot watch`: a run followed at a real terminal, and what is said of runs that are over."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from cli_fixture import ENVIRONMENT
from record_fixture import REPORT, TABLE, wait_until
from surefoot.cli import cli
from surefoot.findings import Report
from surefoot.record import Writer, new_folder
from terminal_fixture import Terminal

WATCH = ("-m", "surefoot", "watch")
# Ten steps a second between the files `go` and `stop`; it keeps when it made which.
PACED = """
import os, time, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
adam = torch.optim.Adam(model.parameters(), lr=0.01)
log = open("log", "w", buffering=1)
while not os.path.exists("go"): time.sleep(0.02)
while not os.path.exists("stop"):
    x = torch.randn(16, 4)
    adam.zero_grad()
    (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
    adam.step()
    print(time.time(), file=log)
    time.sleep(0.1)
"""
STEP = re.compile(rb"step +(?:\x1b\[[\d;]*m| )*(\d[\d,]*) ")
GONE = b"\x1b[?1049l"  # the screen is given back


@contextmanager
def training(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run of PACED under `surefoot run`, recorded by now."""
    (folder / "train.py").write_text(PACED)
    with subprocess.Popen(
        [sys.executable, "-m", "surefoot", "run", "--name", "a", "train.py"], cwd=folder,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_until((folder / "runs" / "a" / "run.sqlite").exists, 60)
            yield process
        finally:
            process.kill()


class TestLive:
    """A training in one process, whoever follows it in another."""

    def test_from_the_first_step_to_the_verdict(self, tmp_path: Path) -> None:
        with training(tmp_path), Terminal(tmp_path, *WATCH, "--fail-on", "advice") as terminal:
            terminal.until(b"for the first step")
            (tmp_path / "go").touch()
            delays: dict[int, float] = {}
            while len(delays) < 12:
                before = len(terminal.seen)
                terminal.until(re.compile(rb"(?s).{%d}.*steps/s" % before))
                step = int(STEP.findall(terminal.seen)[-1].replace(b",", b""))
                made = (tmp_path / "log").read_text().splitlines()
                if step < len(made):
                    delays.setdefault(step, time.time() - float(made[step]))
            (tmp_path / "stop").touch()
            status = terminal.end()
        # Half a second until it is on the disk, a quarter until somebody looks.
        assert statistics.median(delays.values()) < 1.0, delays
        assert terminal.seen.startswith(b"runs/a: the only run in runs\n")
        frames, gone, verdict = terminal.seen.partition(GONE)
        assert gone
        # One look is not enough, and the second comes when it can be afforded.
        assert b"too early to say" in frames
        assert b"elapsed" in frames
        report = Report.from_json(json.loads((tmp_path / "runs" / "a" / "run.json").read_text()))
        assert str(report.verdict).upper().encode() in verdict
        assert status == (3 if report.findings else 0)
        assert terminal.seen.count(b"\x1b[?25l") == terminal.seen.count(b"\x1b[?25h") == 1

    @pytest.mark.zoo
    def test_killed_and_left(self, tmp_path: Path) -> None:
        """Ctrl-C leaves at once and touches nothing; of a killed run it is said."""
        with training(tmp_path) as process:
            (tmp_path / "go").touch()
            with Terminal(tmp_path, *WATCH, "runs/a") as terminal:
                terminal.until(b"steps/s")
                begun = time.monotonic()
                terminal.press(b"\x03")
                assert terminal.end() == 130
                assert time.monotonic() - begun < 5
            assert GONE in terminal.seen
            assert b"\x1b[?25h" in terminal.seen
            assert b"Traceback" not in terminal.seen
            assert process.poll() is None
            with Terminal(tmp_path, *WATCH, "runs/a") as terminal:
                terminal.until(b"steps/s")
                process.kill()
                assert terminal.end() == 0
        rest = b" ".join(terminal.seen.partition(GONE)[2].split())
        assert b"Cut off: no process of this machine goes on with it" in rest
        assert b"Run folder: runs/a" in rest


def recorded(runs: Path, name: str, report: Report | None = None, steps: int = 5) -> Writer:
    """A run of this process, live until it is closed."""
    writer = Writer(new_folder(runs, name), {"device": "cpu"})
    writer.declare(0, TABLE, {"loss": 1, "gradient": 5})
    for step in range(steps):
        rows = {"loss": np.array([1.0 / (step + 1)]), "gradient": np.array([2.0, 1, 0, 0, 0])}
        writer.put(0, step, rows)
    if report is not None:
        writer.close(report)
    elif steps:
        wait_until(lambda: writer.committed.get(0) == steps - 1)
    return writer


def watch(*words: str | Path) -> tuple[int, str, str]:
    """(status, standard output, standard error) without a terminal."""
    result = CliRunner().invoke(cli, ["watch", *map(str, words)], standalone_mode=False)
    error = result.exception
    if isinstance(error, click.ClickException):
        return error.exit_code, result.stdout, error.format_message()
    assert error is None
    return result.return_value or 0, result.stdout, result.stderr


def test_a_killed_watch_gives_the_screen_back(tmp_path: Path) -> None:
    writer = recorded(tmp_path, "a")
    with Terminal(tmp_path, *WATCH, "a") as terminal:
        terminal.until(b"too early to say")
        terminal.process.terminate()
        assert terminal.end() == 128 + 15
    writer.close(Report(steps=5))
    assert terminal.seen.endswith(b"\x1b[?25h" + GONE)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.002)
    monkeypatch.setenv("COLUMNS", "100")


class TestOnce:
    """One frame and no more, as everywhere but at a terminal."""

    def test_live(self, tmp_path: Path) -> None:
        writer = recorded(tmp_path, "a")
        status, out, err = watch(tmp_path / "a")
        writer.close(Report(steps=5))
        assert (status, err) == (0, "")
        assert "NO VERDICT  too early to say" in out
        assert re.search(r"step +4 · 0:0\d:\d\d elapsed", out)
        assert "now 0.200 · lowest 0.200 · first 1" in out
        assert "\x1b" not in out

    def test_over(self, tmp_path: Path) -> None:
        recorded(tmp_path, "a", REPORT)
        status, out, _ = watch(tmp_path / "a", "--once")
        assert status == 0
        assert "UNSTABLE  exploding gradients · starts at fc" in out
        assert "step           4 · over" in out

    @pytest.mark.parametrize(("limit", "expected"), [("advice", 3), ("harmful", 3), ("fatal", 0)])
    def test_fail_on(self, tmp_path: Path, limit: str, expected: int) -> None:
        recorded(tmp_path, "a", REPORT)  # a harmful finding
        assert watch(tmp_path / "a", "--fail-on", limit)[0] == expected

    def test_nothing_found_does_not_fail(self, tmp_path: Path) -> None:
        recorded(tmp_path, "a", Report(steps=5))
        assert watch(tmp_path / "a", "--fail-on", "advice")[0] == 0

    def test_no_step_yet(self, tmp_path: Path) -> None:
        writer = recorded(tmp_path, "a", steps=0)
        assert "WAITING  for the first step" in watch(tmp_path / "a")[1]
        writer.close()

    def test_cut_off(self, tmp_path: Path) -> None:
        writer = recorded(tmp_path, "a")
        writer.close()
        assert not (writer.folder / "run.json").exists()
        out = watch(tmp_path / "a")[1]
        assert "Cut off: no process of this machine goes on with it" in " ".join(out.split())


class TestWhich:
    """A run folder, a folder of runs, or neither."""

    def test_newest_that_goes_on(self, tmp_path: Path) -> None:
        live = recorded(tmp_path, "live")
        recorded(tmp_path, "over", Report(steps=5))
        status, out, err = watch(tmp_path)
        live.close()
        assert status == 0
        assert err == f"{tmp_path / 'live'}: the newest that goes on in {tmp_path}\n"
        assert "─ live ─" in out

    def test_newest_where_none_goes_on(self, tmp_path: Path) -> None:
        recorded(tmp_path, "older", Report(steps=5))
        recorded(tmp_path, "newer", Report(steps=5))
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "run.sqlite").write_text("not a database")
        assert watch(tmp_path)[2] == f"{tmp_path / 'newer'}: the newest of 2 runs in {tmp_path}\n"

    def test_default_is_runs(self, workdir: Path) -> None:
        recorded(workdir / "runs", "a", Report(steps=5))
        assert watch()[2] == "runs/a: the only run in runs\n"

    def test_no_run_at_all(self, workdir: Path) -> None:
        status, out, err = watch()
        assert (status, out) == (1, "")
        assert "expected a run folder or a folder of runs, found none in runs" in err
        assert "surefoot run train.py" in err

    @pytest.mark.parametrize("place", ["a", "."])
    def test_broken_folder(self, workdir: Path, place: str) -> None:
        (workdir / "a").mkdir()
        (workdir / "a" / "run.sqlite").write_text("not a database" * 1000)
        status, out, err = watch(place)
        assert (status, out) == (1, "")
        assert re.search(r"a/run\.sqlite (cannot be read|is no)", err)
