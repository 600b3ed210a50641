"""What a build gives to `surefoot check`: every slip in it is said, and what the command does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import surefoot
from check_fixture import CE, digits, mlp, same
from surefoot.build import Build, BuildError, from_parts
from surefoot.cli import cli


def parts() -> tuple[nn.Module, Any, Any, torch.optim.Optimizer]:
    model = mlp(2)
    return model, digits(), CE(), torch.optim.SGD(model.parameters(), lr=0.1)


def frozen() -> nn.Module:
    return mlp(2).requires_grad_(False)


M, B, L, O = parts()  # noqa: E741
SLIPS: list[tuple[Any, str]] = [
    (None, "got None: is the return missing"),
    ((M, B), "got a tuple of 2"),
    ((M, B, L, O, 1), "got a tuple of 5"),
    ({"model": M}, "got a dict"),
    ((x for x in (M, B, L)), "it yields: use return"),
    ((B, M, L), "expected a torch.nn.Module in first place, got a tuple of 2"),
    ((nn.Linear, B, L), "got the class Linear: make one"),
    ((frozen(), B, L), "all of its parameters are frozen"),
    ((nn.ReLU(), B, L), "it has no parameters"),
    ((nn.LazyLinear(3), B, L), "lazy layers"),
    ((M, torch.utils.data.DataLoader([]), L), "got an empty one"),
    ((M, iter([1]), L), "expected one batch in second place, got a list_iterator"),
    ((M, None, L), "expected one batch of tensors in second place"),
    ((M, (np.zeros(3), np.zeros(3)), L), "torch.from_numpy"),
    ((M, (torch.zeros(0, 64), torch.zeros(0).long()), L), "got an empty one"),
    ((M, B, CE), "got the class CrossEntropyLoss: make one"),
    ((M, B, O), "expected a loss function in third place, got a SGD"),
    ((M, B, L, torch.optim.SGD), "expected a torch.optim.Optimizer in fourth place, got the class"),
    ((M, B, L, torch.optim.lr_scheduler.StepLR(O, 1)), "the scheduler is not needed"),
    ((M, B, L, torch.optim.SGD(mlp(1).parameters())), "holds none of its parameters"),
]


@pytest.mark.parametrize(("made", "words"), SLIPS)
def test_a_slip_in_build_is_said(made: Any, words: str) -> None:
    with pytest.raises(BuildError) as caught:
        from_parts(made)
    assert words in str(caught.value)


RUNTIME: list[tuple[Any, Any, Any, str]] = [
    (M, (B[0][:, :60], B[1]), L, "the model refused the batch: RuntimeError: mat1 and mat2"),
    (M, (B[0], B[1].float()), L, "the loss function failed"),
    (M, B, lambda o, t: CE()(o, t).item(), "expected the loss as a tensor, got float"),
    (M, B, CE(reduction="none"), "expected one number as the loss, got a tensor of shape [128]"),
    (M, B, lambda o, t: CE()(o.detach(), t), "got one without a graph"),
    (M, B, None, "has no loss of its own"),
]


@pytest.mark.parametrize(("model", "batch", "loss", "words"), RUNTIME)
def test_parts_that_do_not_fit_are_said(model: Any, batch: Any, loss: Any, words: str) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BuildError) as caught:
        surefoot.check(model, batch, loss)
    assert words in str(caught.value)
    assert same(before, model.state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_build_error_is_a_value_error() -> None:
    assert issubclass(surefoot.BuildError, ValueError)
    assert Build(M, B, L).targets is B[1]


# -- the command ------------------------------------------------------------------------------

PROJECT = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = [m for _ in range(10) for m in (nn.Linear(32, 32), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    batch = torch.randn(64, 32), torch.randint(2, (64,))
    return model, batch, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1)

def sound():
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    batch = torch.randn(64, 32), torch.randint(2, (64,))
    return model, batch, nn.CrossEntropyLoss()

def broken():
    raise RuntimeError("the data is not there")

def greedy(path):
    return build()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checked_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli, ["check", *words], standalone_mode=True)


class TestCommand:
    def test_verdict_numbers_and_status(self, project: Path) -> None:
        done = invoke("checked_project:build", "-o", "page.html", "--json", "out.json")
        assert done.exit_code == 0, done.output
        assert "UNSTABLE" in done.output
        assert "saturating activation" in done.output
        assert "forward-backward equivalents" in done.output
        data = json.loads((project / "out.json").read_text())
        assert data["verdict"] == "unstable"
        assert data["steps"] == 0
        assert data["check"]["passes"] <= 8
        assert {"quantity", "value", "expected", "step"} == set(data["check"]["gauges"][0])
        assert (project / "page.html").read_text().startswith("<!doctype html>")

    def test_the_path_of_a_file_will_do(self, project: Path) -> None:
        done = invoke("checked_project.py:sound", "--fail-on", "advice")
        assert done.exit_code == 0, done.output
        assert "HEALTHY" in done.output

    def test_a_finding_can_fail_a_pipeline(self, project: Path) -> None:
        assert invoke("checked_project:build", "--fail-on", "harmful", "--quiet").exit_code == 3
        done = invoke("checked_project:build", "--json", "-")
        assert json.loads(done.stdout)["verdict"] == "unstable"

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("checked_project", "expected MODULE:FUNCTION"),
            ("checked_projekt:build", "Did you mean checked_project?"),
            ("checked_project:bild", "did you mean checked_project:build?"),
            ("checked_project:greedy", "to need no arguments: missing a required argument: 'path'"),
            ("checked_project:torch", "expected a function that makes the parts"),
            ("nothing.py:build", "found none at nothing.py"),
        ],
    )
    def test_slips_of_the_target(self, project: Path, target: str, words: str) -> None:
        done = invoke(target)
        assert done.exit_code == 2
        assert words in done.output

    def test_the_projects_own_failure_is_its_own(self, project: Path) -> None:
        done = invoke("checked_project:broken")
        assert done.exit_code == 1
        assert "checked_project:broken failed" in done.output


def test_a_loader_stands_for_its_batches() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(6.0)[:, None], torch.zeros(6, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    build = from_parts((nn.Linear(1, 1), loader, nn.MSELoss()))
    assert [t.flatten().tolist() for t in build.batch] == [[0.0, 1.0], [0.0, 0.0]]
    batches = build.batches()
    assert [next(batches)[0][0].item() for _ in range(5)] == [0.0, 2.0, 4.0, 0.0, 2.0]
    one = from_parts((nn.Linear(1, 1), (torch.ones(2, 1), torch.ones(2, 1)), nn.MSELoss()))
    again = one.batches()
    assert next(again) is next(again)
    assert build.on(one.batch).batch is one.batch
