"""`surefoot benchmark`: what it measures is what was watched, and it leaves no trace."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

from benchmark_fixture import FEW, generators, small
from check_fixture import same
from cli_fixture import ENVIRONMENT
from surefoot.benchmark import (
    BUILT_IN,
    PROCESSOR,
    Contender,
    Extent,
    Unmeasured,
    benchmark,
    markdown,
    measure,
    plain,
    print_costs,
    take_turns,
    watched,
)
from surefoot.benchmark.copies import Copy, make_copies
from surefoot.benchmark.measurement import served_on
from surefoot.build import Build
from surefoot.cli import cli
from surefoot.watching.session import Session
from surefoot.watching.training import Training

# -- the measurement ------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def left_in(folder: Path) -> list[Path]:
    """What surefoot has left there; torch may make a folder of its own."""
    return list(folder.glob("surefoot-*"))


def test_both_copies_train_alike_and_every_watched_step_is_seen(temporary: Path) -> None:
    bare, patched = torch.autograd.backward, []

    def make() -> Build:
        def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            patched.append(torch.autograd.backward is not bare)
            return nn.functional.cross_entropy(out, y)

        build = small()
        return Build(build.model, build.batch, loss, build.optimizer)

    copies, folders = make_copies(make, "small"), []

    @contextmanager
    def noted(copy: Copy) -> Iterator[Contender]:
        with watched(copy) as contender:
            folders.append([p.name for p in temporary.rglob("run.sqlite")])
            yield contender

    turns = take_turns({"plain": plain, "watched": noted}, copies, FEW, PROCESSOR, 2)
    assert [c.taken for c in copies] == [18, 18]
    assert same(copies[0].model.state_dict(), copies[1].model.state_dict())
    assert folders == [["run.sqlite"]] * 2  # one at a time, and it was kept while it lasted
    assert not left_in(temporary)
    assert [len(t.steps["watched"]) for t in turns] == [6, 6]
    assert patched.count(True) == patched.count(False) == 18  # no ear is left for the plain one


def test_what_runs_in_a_pause_is_neither_heard_nor_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget's beginning moves by exactly the time that was not the training's."""
    now = [10.0]
    clock = types.SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    (one, two), session = make_copies(small, "small"), Session(adopt=False)
    session.start()
    try:
        training = session.watch(one.model, one.optimizer)
        one.step()
        monkeypatch.setattr("surefoot.watching.session.time", clock)
        began = training.budget._began
        backward = torch.autograd.backward
        session.pause()
        assert torch.autograd.backward is not backward
        two.step()
        now[0] = 17.5
        session.resume()
        assert training.budget._began - began == pytest.approx(7.5)
        one.step()
        assert (training.step, session.report().steps) == (2, 2)
    finally:
        session.stop()


def test_a_watch_that_steps_aside_has_no_cost(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.before_step

    def breaks(training: Training, *args: Any, **kwargs: Any) -> None:
        if training.step == 4:
            raise RuntimeError("out of order")
        original(training, *args, **kwargs)

    monkeypatch.setattr(Training, "before_step", breaks)
    with pytest.raises(Unmeasured, match=r"4 of 9 steps were watched.*out of order"):
        measure(small, "small", FEW)
    assert not left_in(temporary)


def test_no_room_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(Unmeasured, match="no temporary folder can be made"):
        measure(small, "small", FEW)


def test_an_interrupt_ends_it_at_once_and_leaves_nothing(temporary: Path) -> None:
    calls = []

    def make() -> Build:
        def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            calls.append(0)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return nn.functional.cross_entropy(out, y)

        build = small()
        return Build(build.model, build.batch, loss, build.optimizer)

    with pytest.raises(KeyboardInterrupt):
        measure(make, "small", FEW)
    assert len(calls) == 5
    assert not left_in(temporary)


def test_without_a_target_two_trainings_share_the_time_at_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, int, float]] = []

    def noted(make: Any, title: str, extent: Extent) -> None:
        seen.append((title, torch.get_num_threads(), extent.seconds))

    monkeypatch.setattr("surefoot.benchmark.measurement.measure", noted)
    torch.set_num_threads(2)
    try:
        benchmark(None, 20.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [(title, 1, 5.0) for title in BUILT_IN]  # of a turn, of which there are two


def test_the_kernel_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    host, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("surefoot.benchmark.measurement.kernel_name", lambda: "native-avx2")
    assert (served_on(host), served_on(gpu)) == ("native-avx2", "eager")
    monkeypatch.setattr("surefoot.benchmark.measurement.kernel_name", lambda: "native-avx2+triton")
    assert served_on(gpu) == "native-avx2+triton"


def test_the_built_in_trainings_have_the_size_they_say() -> None:
    mlp, gpt = (make() for make in BUILT_IN.values())
    assert sum(p.numel() for p in mlp.model.parameters()) == 50 * (128 * 128 + 128) + 128 * 10 + 10
    d = 128  # per block: two norms, qkv, projection, up, down
    block = 2 * 2 * d + (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    outside = 256 * d + 128 * d + 2 * d + (256 * d + 256)
    assert sum(p.numel() for p in gpt.model.parameters()) == 4 * block + outside
    assert gpt.loss().item() == pytest.approx(np.log(256), rel=0.1)  # nothing learnt yet


# -- words and files ------------------------------------------------------------------------------

PROJECT = """
import torch
from torch import nn

MODEL = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
OPTIMIZER = torch.optim.Adam(MODEL.parameters())
BATCH = torch.ones(16, 4), torch.zeros(16, dtype=torch.long)

def build():
    return MODEL, BATCH, nn.CrossEntropyLoss(), OPTIMIZER

def raises(): raise RuntimeError("of its own")
def nothing(): pass
def misfit(): return nn.Linear(5, 3), BATCH, nn.CrossEntropyLoss()
def frozen(): return MODEL.requires_grad_(False), BATCH, nn.CrossEntropyLoss()
def needs(x): pass

CALLS = []
def interrupted():
    def loss(out, y):
        CALLS.append(0)
        if len(CALLS) == 30:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(out, y)
    return nn.Linear(4, 3), BATCH, loss
"""


@pytest.fixture
def project(workdir: Path) -> Path:
    (workdir / "train.py").write_text(PROJECT)
    return workdir


@pytest.fixture(autouse=True)
def _imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the command imports and puts on the path is gone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("train", None)


def test_a_users_objects_and_files_stay_as_they_are(project: Path, temporary: Path) -> None:
    import importlib

    sys.path.insert(0, str(project))
    train = importlib.import_module("train")
    train.MODEL(train.BATCH[0]).sum().backward()
    train.OPTIMIZER.step()
    before = copy.deepcopy((train.MODEL.state_dict(), train.OPTIMIZER.state_dict(), train.BATCH))
    gradients = [(p.grad, p.grad.clone()) for p in train.MODEL.parameters()]
    hooks = {k: len(v) for k, v in vars(train.MODEL).items() if k.endswith("_hooks")}
    state = generators()
    costs = benchmark("train:build", 0.01)
    assert len(costs) == 1
    assert same(before, (train.MODEL.state_dict(), train.OPTIMIZER.state_dict(), train.BATCH))
    for p, (there, value) in zip(train.MODEL.parameters(), gradients, strict=True):
        assert p.grad is there
        assert torch.equal(there, value)
    assert hooks == {k: len(v) for k, v in vars(train.MODEL).items() if k.endswith("_hooks")}
    assert state == generators()
    assert {p.name for p in project.iterdir()} <= {"train.py", "__pycache__", "temporary"}
    assert not left_in(temporary)


SCHEMA: dict[str, type | tuple[type, ...]] = {
    "training": str, "tensors": int, "parameters": int, "optimizer": str, "device": str,
    "threads": int, "kernel": str, "kernel_reason": (str, type(None)), "clock": str,
    "step": float, "ratio": dict, "target": float,
}  # fmt: skip
RATIO = {
    "typical": float, "error": float, "low": float, "high": float, "total": float, "rounds": int,
}  # fmt: skip


@pytest.mark.parametrize("output", ["-", "out/cost.json"])
def test_the_json_contract(project: Path, output: str) -> None:
    done = CliRunner().invoke(
        cli, ["benchmark", "train.py:build", "--seconds", "0.01", "--json", output]
    )
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout if output == "-" else (project / output).read_text())
    assert data.keys() == {"surefoot", "schema", "costs", "environment"}
    assert data["schema"] == 1
    assert data["environment"].keys() == {"python", "torch", "platform", "started"}
    (cost,) = data["costs"]
    for names, row in ((SCHEMA, cost), (RATIO, cost["ratio"])):
        assert row.keys() == names.keys()
        for name, kind in names.items():
            assert isinstance(row[name], kind), name
    assert (cost["training"], cost["tensors"], cost["parameters"]) == ("train.py:build", 4, 67)
    assert cost["optimizer"] == "Adam"
    assert cost["ratio"]["rounds"] >= 6


@pytest.mark.parametrize(
    "target", ["raises", "nothing", "misfit", "frozen", "needs", "biuld", "", "x:y"]
)
def test_a_bad_target_is_answered_as_by_check(
    project: Path, target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for command in ("check", "benchmark"):
        name = target if ":" in target else f"train.py:{target}"
        with pytest.raises(click.ClickException) as caught:
            cli.main([command, name], prog_name="surefoot", standalone_mode=False)
        shown = capfd.readouterr().err  # the traceback of the project's own code
        answers.append((caught.value.format_message(), caught.value.exit_code, shown))
    assert answers[0] == answers[1]
    assert answers[0][1] == (1 if target == "raises" else 2)
    assert ("of its own" in answers[0][2]) == (target == "raises")


def test_a_cost_that_is_unknown_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(target: str | None, seconds: float) -> None:
        raise Unmeasured("3 of 9 steps were watched")

    monkeypatch.setattr("surefoot.benchmark.benchmark", fails)
    done = CliRunner().invoke(cli, ["benchmark"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "3 of 9 steps were watched" in done.stderr


def test_an_interrupt_through_the_real_door(project: Path) -> None:
    """Status 130 and no folder left, by an interrupt in the middle of a step."""
    (project / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "surefoot", "benchmark", "train.py:interrupted"],
        env=ENVIRONMENT | {"TMPDIR": str(project / "temporary")},
        cwd=project, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert "Error" not in done.stderr
    assert not left_in(project / "temporary")


def test_the_table_shows_a_training_as_named_and_fits_a_terminal() -> None:
    (cost,) = [measure(small, "[red]a:b|c", FEW)]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_costs([cost, cost], console=console)
    console.file.close()
    text = console.export_text()
    assert text.count("[red]a:b|c") == 2
    assert f"{cost.ratio.typical:.3f} +- {cost.ratio.error:.3f}" in text
    assert "at most 1.04" in text
    assert max(map(len, text.splitlines())) <= 80
    lines = markdown([cost]).splitlines()
    assert [line.replace("\\|", "").count("|") for line in lines] == [7, 7, 7]


def test_a_long_step_is_to_cost_one_per_cent() -> None:
    from dataclasses import replace

    (cost,) = [measure(small, "small", FEW)]
    assert replace(cost, step=0.0999).target == 1.04
    assert replace(cost, step=0.1).target == 1.01
