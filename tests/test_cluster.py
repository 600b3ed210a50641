"""Trials on a cluster: Ray's local mode gives what processes of this machine give."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from surefoot.trial.arm import Arm, Spec
from surefoot.trial.prove import Plan, ProofError, prove_build

BUILD = """
import torch
from torch import nn

def build():
    torch.manual_seed(3)
    x = torch.randn(128, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, (x, x[:, :1]), nn.MSELoss(), optimizer
"""


def test_without_ray_the_command_to_install_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    Path("project.py").write_text(BUILD)
    with pytest.raises(ProofError, match=r"pip install 'surefoot\[ray\]'"):
        prove_build("project.py:build", "prescribed", Plan(ray=True))


@pytest.fixture(scope="module")
def ray() -> Any:
    """Ray replaces `sys.excepthook` for good when it is imported."""
    return pytest.importorskip("ray")


@pytest.mark.zoo
def test_tasks_of_ray_give_what_processes_give(tmp_path: Path, ray: Any) -> None:
    from surefoot.trial.cluster import Cluster
    from surefoot.trial.runner import Processes

    (tmp_path / "project.py").write_text(BUILD)
    remedy = {"remedy": "learning_rate.scale", "target": None, "why": "", "parameters": {}}
    spec = Spec("project.py:build", cwd=str(tmp_path), steps=20)
    specs = [spec, Spec("project.py:build", cwd=str(tmp_path), steps=20, remedies=(remedy,))]
    deadline = time.monotonic() + 300

    def losses(found: dict[int, Arm]) -> list[list[float]]:
        return [[x for _, x in found[k].losses] for k in range(2)]

    here = dict(Processes(2).run(specs, deadline))
    try:
        there = dict(Cluster().run(specs, deadline))
        assert losses(there) == losses(here)
        assert there[1].applied == ["learning_rate.scale"]
        assert losses(there)[0] != losses(there)[1]
        assert dict(Cluster().run(specs, time.monotonic())) == {}
    finally:
        ray.shutdown()
