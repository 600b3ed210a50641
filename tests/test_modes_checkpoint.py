"""Activation checkpointing: what backward computes again is the same step, and counted once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import modes_fixture as modes
from modes_fixture import Mode, batch, cross_entropy, exact, usual
from surefoot.watching.budget import Budget
from zoo_fixture import mostly_zoo

# torch says so of a checkpoint within one that runs without gradients at first.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")

Way = Callable[[nn.Module, torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def plainly(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module(x)


def saved(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(module, x, use_reentrant=False)


def reentrant(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(module, x, use_reentrant=True)


class Part(nn.Module):
    """Half of a block, with dropout in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.activation, self.drop = nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.activation(self.linear(x)))


class Block(nn.Module):
    """Two parts, each by itself a checkpoint if `inner` is one."""

    def __init__(self, inner: Way) -> None:
        super().__init__()
        self.inner = inner
        self.first, self.second = Part(), Part()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.second, self.inner(self.first, x))


class Trunk(nn.Module):
    """Three blocks, each a checkpoint."""

    def __init__(self, outer: Way, inner: Way = plainly) -> None:
        super().__init__()
        self.outer = outer
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.blocks = nn.ModuleList(Block(inner) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.outer(block, x)
        return self.head(x)


WAYS: dict[str, tuple[Way, Way]] = {
    "saved": (saved, plainly),
    "reentrant": (reentrant, plainly),
    "saved in saved": (saved, saved),
    "reentrant in reentrant": (reentrant, reentrant),
    "saved in reentrant": (reentrant, saved),
}


def trunk(outer: Way, inner: Way) -> Callable[[], Mode]:
    def make() -> Mode:
        model = Trunk(outer, inner)
        return usual(model, torch.optim.Adam(model.parameters(), 1e-3))

    return make


@pytest.mark.parametrize("name", mostly_zoo(WAYS, "saved", "reentrant"))
def test_what_is_computed_again_is_not_counted_again(name: str) -> None:
    session = modes.watch(trunk(*WAYS[name]))
    case = session.trainings[0].case()
    assert case.facts.backwards == case.facts.steps == modes.STEPS
    assert all(len(flow.calls) == 3 * 9 + 3 for flow in case.flows)
    for flow in case.flows:
        counts = np.bincount([call.layer for call in flow.calls])
        assert counts.max() == 1
    assert not session.report().findings


@pytest.mark.parametrize("name", mostly_zoo(WAYS, "saved in saved", "reentrant"))
def test_blocks_and_inputs_are_those_of_the_same_step_without_it(name: str) -> None:
    """Checkpointing changes no number, so nothing that is sampled may change either."""
    seen = [modes.watch(trunk(*ways)) for ways in (WAYS[name], (plainly, plainly))]
    ours, theirs = (s.trainings[0].case() for s in seen)
    for quantity in ("input", "block_scale", "update_ratio", "loss"):
        a, b = ours.get(quantity), theirs.get(quantity)
        assert len(a) == len(b) > 0
        np.testing.assert_array_equal(a.last, b.last, err_msg=quantity)


@pytest.mark.parametrize("way", [saved, reentrant])
@pytest.mark.parametrize("parts", [1, 3, 12])
def test_the_script_itself_may_checkpoint_the_model(way: Way, parts: int) -> None:
    def make() -> Mode:
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(i: int) -> float:
            optimizer.zero_grad()
            total = 0.0
            for k in range(parts):
                x, y = batch(i, k)
                loss = F.cross_entropy(way(model, x.requires_grad_()), y) / parts
                loss.backward()
                total += loss.item()
            optimizer.step()
            return total

        losses = lambda i: [cross_entropy(i, k, 1 / parts) for k in range(parts)]  # noqa: E731
        return Mode([model], step, exact(model, losses), [optimizer])

    session = modes.watch(make)
    case = session.trainings[0].case()
    assert case.facts.steps == modes.STEPS and case.facts.backwards == parts * modes.STEPS
    assert all(len(flow.calls) == 5 * parts for flow in case.flows)
    sizes = case.get("input").last[:, 1]
    assert np.isfinite(sizes).all()


def test_a_chain_in_segments() -> None:
    def make() -> Mode:
        model = nn.Sequential(
            *(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)), nn.Linear(8, 4)
        )
        call = lambda x: checkpoint_sequential(model, 2, x, use_reentrant=False)  # noqa: E731
        return usual(model, torch.optim.SGD(model.parameters(), 0.1), call)

    session = modes.watch(make)
    assert session.trainings[0].case().facts.backwards == modes.STEPS
    assert not session.report().findings
