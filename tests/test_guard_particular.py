"""Optimizers that take only some parameters: Muon matrices, SparseAdam sparse gradients.

The rest of the model has an optimizer of its own, as their documentation has it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surefoot
from surefoot.findings import Verdict
from surefoot.guarding.acts import Rung
from test_guard_steps import guards, same

__all__ = ["guards"]  # the fixture
Make = Callable[..., surefoot.Guard]
Optimizers = list[torch.optim.Optimizer]
WORDS = 40
FACTORS = {"": 1.0, "nan": math.nan, "inf": math.inf, "large": 1e4}


class Words(nn.Module):
    """A bag of words: one table of embeddings by each of torch's modules, and a head."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(WORDS, 8, sparse=sparse)
        self.bag = nn.EmbeddingBag(WORDS, 8, sparse=sparse, mode="sum")
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.tanh(self.table(x).mean(1) + self.bag(x))))


def tables(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name in ("table.weight", "bag.weight")]


def others(model: nn.Module, but: list[Any]) -> list[nn.Parameter]:
    return [p for p in model.parameters() if not any(p is q for q in but)]


def sparse_adam(model: nn.Module) -> Optimizers:
    mine = tables(model)
    return [torch.optim.SparseAdam(mine, lr=0.01), torch.optim.Adam(others(model, mine), lr=0.01)]


def muon(model: nn.Module) -> Optimizers:
    mine = [p for p in model.parameters() if p.dim() == 2]
    rest = torch.optim.AdamW(others(model, mine), lr=0.01)
    return [torch.optim.Muon(mine, lr=0.01, weight_decay=0.1), rest]


def muon_alone(model: nn.Module) -> Optimizers:
    """What has no optimizer stays as it is."""
    return muon(model)[:1]


def sparse_sgd(model: nn.Module) -> Optimizers:
    return [torch.optim.SGD(model.parameters(), lr=0.05)]


def adagrad(model: nn.Module) -> Optimizers:
    return [torch.optim.Adagrad(model.parameters(), lr=0.05)]


KINDS: dict[str, tuple[bool, Callable[[nn.Module], Optimizers]]] = {
    "SparseAdam": (True, sparse_adam),
    "SGD of sparse gradients": (True, sparse_sgd),
    "Adagrad of sparse gradients": (True, adagrad),
    "Muon": (False, muon),
    "Muon alone": (False, muon_alone),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of Adagrad
FEW = ("SparseAdam", "Muon")
if not hasattr(torch.optim, "Muon"):  # before PyTorch 2.9
    KINDS = {name: kind for name, kind in KINDS.items() if "Muon" not in name}
EVERY = [pytest.param(k, marks=() if k in FEW else pytest.mark.slow, id=k) for k in KINDS]
ALL = [pytest.param(k, marks=pytest.mark.slow, id=k) for k in KINDS]
FAULTS = ["nan", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("inf", "large"))]


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Words, some of them twice in a row: their gradients are stored twice."""
    generator = torch.Generator().manual_seed(1)
    words = [torch.randint(WORDS, (16, 5), generator=generator) for _ in range(count)]
    return [(x, x.sum(1) % 3) for x in words]


def step(model: Any, optimizers: Optimizers, x: torch.Tensor, y: torch.Tensor, fault: str = ""
         ) -> float:  # fmt: skip
    model.zero_grad()
    loss = F.cross_entropy(model(x), y) * FACTORS[fault]
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def state(model: nn.Module, optimizers: Optimizers) -> Any:
    return copy.deepcopy([model.state_dict(), *(o.state_dict() for o in optimizers)])


def begin(kind: str) -> tuple[nn.Module, Optimizers]:
    sparse, make = KINDS[kind]
    model = Words(sparse)
    return model, make(model)


@pytest.mark.parametrize("kind", EVERY)
def test_a_healthy_run_is_left_alone_bit_for_bit(kind: str, guards: Make) -> None:
    """Under a watch, under a guard, and under one that only says what it would do."""
    runs = []
    for how in ("alone", "watched", "guarded", "dry run"):
        model, optimizers = begin(kind)
        guard = None
        if how in ("guarded", "dry run"):
            guard = guards(optimizers, model, dry_run=how == "dry run")
        watch = surefoot.watch(model, optimizers)
        if how == "watched":
            watch.start()
        losses = [step(model, optimizers, x, y) for x, y in batches(24)]
        if how == "watched":
            report = watch.stop()
            assert report.steps == 24 and report.verdict is not Verdict.INCONCLUSIVE
            assert watch._session.problem is None
        if guard is not None:
            assert len(guard.acts) == 0 and guard.steps == 24
            guard.remove()
        runs.append((losses, state(model, optimizers)))
    assert all(same(runs[0], run) for run in runs[1:])


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_skipped_step_leaves_no_trace(kind: str, fault: str, guards: Make) -> None:
    bad = (20, 30)
    runs = []
    for guarded in (False, True):
        model, optimizers = begin(kind)
        guard = guards(optimizers, model) if guarded else None
        for i, (x, y) in enumerate(batches(40)):
            if i not in bad:
                step(model, optimizers, x, y)
            elif guarded:
                step(model, optimizers, x, y, fault)
        runs.append(state(model, optimizers))
    assert guard is not None
    assert {(act.step, act.rung) for act in guard.acts} == {(i, Rung.SKIP) for i in bad}
    assert same(*runs)


@pytest.mark.parametrize("kind", ALL)
def test_a_spoilt_weight_is_rolled_back(kind: str, guards: Make) -> None:
    """Bit for bit to the state after an earlier step; sparse moments too."""
    model, optimizers = begin(kind)
    guard = guards(optimizers, model, rollback=16)
    states = []
    for i, (x, y) in enumerate(batches(60)):
        if i == 50:
            with torch.no_grad():
                model.get_parameter("head.weight")[0, 0] = math.nan
        step(model, optimizers, x, y)
        states.append(state(model, optimizers))
        if i == 52:
            assert sum(same(states[-1], one) for one in states[:50]) == 1
    assert guard.acts.count(Rung.ROLL_BACK) == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("clip", [0.1, "value", "parameter_norm", "autoclip", "adagc", "zclip"])
def test_sparse_gradients_are_clipped_like_dense_ones(clip: Any, guards: Make) -> None:
    used: list[list[torch.Tensor]] = []
    for sparse in (True, False):
        model = Words(sparse)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        guard = guards(optimizer, model, clip=clip, skip=False)
        for x, y in batches(30):
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) * 50).backward()
            optimizer.step()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        used.append([g.to_dense() if g.is_sparse else g for g in grads])
        assert guard.clipped or clip in ("zclip", "adagc")
        guard.remove()
    for a, b in zip(*used, strict=True):
        torch.testing.assert_close(a, b)
