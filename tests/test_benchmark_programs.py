"""The programs of benchmarks/: they start, and compare names whom it cannot measure."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from surefoot.benchmark import Extent, Ratio
from surefoot.benchmark.copies import make_copies
from surefoot.build import Build

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
PROGRAMS = ["compare", "guard", "parameter_pass", "scaling", "watch_overhead"]


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They find each other as under `python benchmarks/NAME.py`."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield
    for name in [n for n in sys.modules if n in PROGRAMS or n.partition(".")[0] == "parts"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_starts_and_prints_a_table_for_a_page(name: str) -> None:
    done = CliRunner().invoke(importlib.import_module(name).main, ["--help"])
    assert done.exit_code == 0, done.output
    assert "--markdown" in done.output


def rectified() -> Build:
    """Norm and rectifier in place, which a full backward hook on the norm forbids."""
    layers = nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    batch = torch.randn(16, 4), torch.randint(3, (16,))
    return Build(nn.Sequential(*layers), batch, nn.CrossEntropyLoss())


def test_every_peer_has_a_figure_or_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("parts.peers")
    compare = importlib.import_module("compare")

    def absent(copy: Any) -> Any:
        importlib.import_module("no_such_tool")

    chosen = {p.words: p for p in peers.PEERS if p.package is None}
    ways = (*chosen.values(), peers.Peer("watch", absent, "no-such-tool"))
    monkeypatch.setattr(compare, "PEERS", ways)
    monkeypatch.setitem(compare.TRAININGS, "mlp", ("rectified", rectified))
    costs = compare.compare("mlp", Extent(rounds=3, warm=1), 2)
    assert costs.keys() == {way.title for way in ways}
    assert costs.pop("no-such-tool, watch") == "no_such_tool is not installed"
    hooked = costs.pop("hooks on every layer, norms and item")
    assert isinstance(hooked, str)
    assert hooked.startswith("fails: RuntimeError:")
    assert all(isinstance(cost, Ratio) and cost.rounds == 6 for cost in costs.values())
    assert {"surefoot", "clip_grad_norm_ and item"} < costs.keys()


def test_what_a_peer_hangs_on_a_training_is_taken_off() -> None:
    peers = importlib.import_module("parts.peers")
    (copy,) = make_copies(rectified, "rectified", 1)
    calls: list[float] = []
    with peers.before_update(copy, lambda: calls.append(copy.loss.item())):
        copy.step()
    for regime in (peers.clipping, peers.norms, partial(peers.before_update, act=list)):
        with regime(copy):
            copy.step()
    with peers.hooks(copy):
        pass
    copy.step()
    assert len(calls) == 1
    hooked = [k for m in copy.model.modules() for k, v in vars(m).items() if "hooks" in k and v]
    assert not hooked
    assert not copy.optimizer._optimizer_step_pre_hooks
