"""Several processes under `surefoot run`: one run folder, one verdict, the launcher's status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distributed_fixture import environment, free_port
from surefoot import launch
from surefoot.attach.processes import also_in_spawned
from surefoot.findings import Cause, Report
from surefoot.record import read_run
from surefoot.script import locate

PYTHON = sys.executable
TORCHRUN = str(Path(PYTHON).with_name("torchrun"))

TRAIN = """
import os, sys
import torch
from torch import nn

def train(rank, size, *words):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(rank)
    for step in range(40):
        x = torch.randn(8, 6)
        y = x.sum(1, keepdim=True).sin()
        if rank == 1 and step == 30 and "lost" in words:
            x[5, 2] = torch.nan
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        if rank == 1 and step == 35 and "die" in words:
            raise ValueError("rank 1 dies")
    known = "SUREFOOT_DELIVERY" in os.environ
    sys.stdout.write(f"rank {rank} of {size}: {sys.argv[1:]} {known}\\n")  # at once
    sys.stdout.flush()
    torch.distributed.destroy_process_group()
"""
SCRIPT = """
import os, sys
from training import train
train(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), *sys.argv[1:])
"""
SPAWNING = """
import os, sys
import torch
from training import train
if __name__ == "__main__":
    torch.multiprocessing.spawn(train, (2, *sys.argv[1:]), nprocs=2)
    print("all have ended")
"""


@pytest.fixture
def project(workdir: Path) -> Path:
    (workdir / "training.py").write_text(TRAIN)
    (workdir / "train.py").write_text(SCRIPT)
    (workdir / "spawning.py").write_text(SPAWNING)
    return workdir


def started(*words: str) -> subprocess.CompletedProcess[str]:
    """A program that has ended."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return subprocess.run(
        words, env=environment() | world, text=True, capture_output=True, timeout=110, check=False
    )


def two(*before: str) -> tuple[str, ...]:
    """The options of torchrun for two processes here."""
    return (*before, "--nproc-per-node", "2", "--master-port", str(free_port()))


def the_only_run(project: Path) -> Path:
    (folder,) = (project / "runs").iterdir()
    return folder


def check_one_verdict(done: subprocess.CompletedProcess[str], project: Path) -> None:
    assert done.stderr.count("UNSTABLE") == 1, done.stderr
    assert "only on rank 1 of 2" in " ".join(done.stderr.split())
    folder = the_only_run(project)
    assert {path.name for path in folder.iterdir()} >= {"run.json", "report.html"}
    run = read_run(folder)
    assert run.report.root.cause is Cause.NONFINITE_INPUT
    assert any(event.kind == "ranks" for event in run.events)


def test_surefoot_under_torchrun(project: Path) -> None:
    words = two(PYTHON, "-m", "torch.distributed.run")
    done = started(*words, "-m", "surefoot", "run", "--json", "report.json", "train.py", "lost")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {r} of 2: ['lost'] False" for r in range(2)]
    check_one_verdict(done, project)
    report = Report.from_json(json.loads((project / "report.json").read_text()))
    assert report.root.cause is Cause.NONFINITE_INPUT
    assert read_run(the_only_run(project)).environment["world"] == 2


@pytest.mark.zoo
def test_torchrun_under_surefoot(project: Path) -> None:
    words = (PYTHON, "-m", "surefoot", "run", "--json", "report.json", "--fail-on", "fatal")
    done = started(*words, *two("-m", "torch.distributed.run"), "train.py", "lost")
    assert done.returncode == 3, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {r} of 2: ['lost'] False" for r in range(2)]
    check_one_verdict(done, project)
    report = Report.from_json(json.loads((project / "report.json").read_text()))
    assert report.root.cause is Cause.NONFINITE_INPUT


@pytest.mark.zoo
def test_spawned_processes(project: Path) -> None:
    done = started(PYTHON, "-m", "surefoot", "run", "--fail-on", "fatal", "spawning.py", "lost")
    assert done.returncode == 3, done.stderr
    assert "all have ended" in done.stdout
    check_one_verdict(done, project)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchrun", "spawn"])
def test_a_rank_that_dies_leaves_a_verdict_and_its_own_status(form: str, project: Path) -> None:
    words = (PYTHON, "-m", "surefoot", "run")
    if form == "torchrun":
        done = started(*words, *two(TORCHRUN), "train.py", "lost", "die")
    else:
        done = started(*words, "spawning.py", "lost", "die")
    assert done.returncode == 1
    assert "rank 1 dies" in done.stderr
    assert "UNSTABLE" in done.stderr
    assert the_only_run(project)


@pytest.mark.slow
def test_a_restart_is_a_run_of_its_own(project: Path) -> None:
    words = two(PYTHON, "-m", "surefoot", "run", "--name", "mine", "-m", "torch.distributed.run")
    done = started(*words, "--max-restarts", "1", "train.py", "die")
    assert done.returncode == 1
    assert sorted(path.name for path in (project / "runs").iterdir()) == ["mine", "mine-2"]


@pytest.mark.slow
def test_the_older_launcher_still_tells_the_local_rank(project: Path) -> None:
    words = two(PYTHON, "-m", "surefoot", "run", "-m", "torch.distributed.launch")
    done = started(*words, "train.py", "lost")
    assert sorted(done.stdout.splitlines()) == [
        f"rank {r} of 2: ['--local-rank={r}', 'lost'] False" for r in range(2)
    ]
    check_one_verdict(done, project)


# -- what a launcher is given instead --------------------------------------------------------------

RUN = "torch.distributed.run"
OLD = "torch.distributed.launch"


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        (RUN, "train.py", "-m surefoot run --quiet train.py"),
        (RUN, "train.py --lr 1 -m x", "-m surefoot run --quiet train.py --lr 1 -m x"),
        (
            RUN,
            "--nproc-per-node 2 train.py train.py",
            "--nproc-per-node 2 -m surefoot run --quiet train.py train.py",
        ),
        (RUN, "-m project.train a", "-m -m surefoot run --quiet -m project.train a"),
        (
            RUN,
            "--nnodes=1 --module project.train",
            "--nnodes=1 --module -m surefoot run --quiet -m project.train",
        ),
        (RUN, "-- train.py a", "-m surefoot run --quiet train.py a"),
        (RUN, "-m surefoot run train.py", "-m surefoot run train.py"),
        (RUN, "--help", "--help"),
        (RUN, "--no-such-option train.py", "--no-such-option train.py"),
        (RUN, "", ""),
        (
            OLD,
            "train.py a",
            "--use-env -m surefoot run --quiet train.py --local-rank=${local_rank} a",
        ),
        (OLD, "--use-env train.py a", "--use-env -m surefoot run --quiet train.py a"),
    ],
)
def test_the_command_of_its_processes(module: str, before: str, after: str) -> None:
    assert launch.handed_on(module, before.split(), ["--quiet"]) == after.split()


def test_it_fills_in_nothing_of_ours() -> None:
    changed = launch.handed_on(RUN, ["train.py"], ["--runs", "/tmp/$local_rank"])
    assert "/tmp/$$local_rank" in changed


@pytest.mark.parametrize("option", ["--no-python", "--run-path"])
def test_what_is_no_python_is_out_of_reach(option: str) -> None:
    with pytest.raises(launch.OutOfReach, match=option):
        launch.handed_on(RUN, [option, "train.py"], [])


def test_torch_is_as_it_was_after_asking_a_launcher() -> None:
    before = {name for name in sys.modules if name.startswith("torch.distributed")}
    launch.handed_on(OLD, ["train.py"], [])
    assert OLD not in sys.modules or OLD in before


def test_launchers_are_known_by_name(tmp_path: Path) -> None:
    for name in ("torchrun", "train.py"):
        (tmp_path / name).write_text("")
    assert launch.launcher(locate(str(tmp_path / "torchrun"))) == RUN
    assert launch.launcher(locate(str(tmp_path / "train.py"))) == ""
    assert launch.launcher(locate(OLD, module=True)) == OLD
    assert launch.launcher(locate("project.train", module=True)) == ""


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "3"}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "2"}, (0, 1)),
        ({"RANK": "one", "WORLD_SIZE": "2"}, (0, 1)),
    ],
)
def test_the_place_that_is_announced(
    variables: dict[str, str], place: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.announced() == place


def test_a_delivery_is_awaited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = launch.Delivery.made()
    made.announce()
    awaited = launch.Delivery.awaited()
    assert awaited is not None and launch.Delivery.awaited() is None
    assert made.report() is None and made.record() is None
    awaited.leave(record=Path("runs/one"))
    awaited.leave(Report(steps=7))
    assert made.report() == Report(steps=7) and made.record() == Path("runs/one")
    (made.folder / "report").write_text("{")
    assert made.report() is None
    made.close()
    assert not made.folder.exists()
    made.close()


def test_following_spawned_processes_leaves_no_trace() -> None:
    module = sys.modules["torch.multiprocessing.spawn"]
    original = module.start_processes
    undo = also_in_spawned(lambda function: function)
    assert torch.multiprocessing.start_processes is module.start_processes is not original
    undo()
    assert torch.multiprocessing.start_processes is module.start_processes is original
