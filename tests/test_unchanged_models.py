"""The user's models under a watch: no hook stays or is copied, none is kept alive or mistaken."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import optimizer as torch_optimizer

from surefoot.watching.budget import Budget
from surefoot.watching.session import Session
from unchanged_fixture import Attention, dropout, labels, plain


@pytest.fixture
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time budget: every sample and replay that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


@pytest.fixture
def session() -> Iterator[Session]:
    watching = Session()
    watching.start()
    yield watching
    watching.stop()


# -- what is left behind --------------------------------------------------------------------------


def hooks_of(module: nn.Module) -> dict[str, int]:
    """How many hooks each table of a module holds."""
    tables = (k for k in module.__dict__ if "hook" in k)
    return {k: len(v) for k in tables if hasattr(v := module.__dict__[k], "__len__")}


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 16, 17])
def test_no_hook_is_left(steps: int) -> None:
    """Stopped before, within or after an instrumented step."""
    backward, init = torch.autograd.backward, torch.optim.Optimizer.__init__
    model = Attention()
    before = {name: hooks_of(m) for name, m in model.named_modules()}
    keys = {name: list(m.__dict__) for name, m in model.named_modules()}
    watching = Session()
    watching.start()
    case = plain(model, "", (16, 5, 8))
    assert torch.autograd.backward is not backward
    for i in range(steps):
        case.step(i)
    watching.stop()
    watching.stop()
    assert {name: hooks_of(m) for name, m in model.named_modules()} == before
    assert {name: list(m.__dict__) for name, m in model.named_modules()} == keys
    assert all(not p._backward_hooks for p in model.parameters())
    assert torch.autograd.backward is backward
    assert torch.optim.Optimizer.__init__ is init
    assert not torch_optimizer._global_optimizer_pre_hooks
    assert not torch_optimizer._global_optimizer_post_hooks


def test_stopped_between_forward_and_step() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    before = {name: hooks_of(m) for name, m in model.named_modules()}
    watching = Session()
    watching.start()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(torch.randn(16, 8)), labels())
    watching.stop()
    loss.backward()
    optimizer.step()
    assert {name: hooks_of(m) for name, m in model.named_modules()} == before
    assert watching.report().verdict == "inconclusive"


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 16])
def test_a_model_is_not_kept_alive(steps: int, session: Session) -> None:
    case = dropout("")
    for i in range(steps):
        case.step(i)
    model = weakref.ref(case.modules[0])
    weight = weakref.ref(case.modules[0][0].weight)
    del case
    gc.collect()
    assert model() is None
    assert weight() is None
    assert session.trainings[0].step == steps


def test_a_batch_is_not_kept_alive(session: Session) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        x = torch.randn(16, 8)
        seen, out = weakref.ref(x), model(x)
        made = weakref.ref(out)
        F.cross_entropy(out, labels()).backward()
        optimizer.step()
        optimizer.zero_grad()
        del x, out
        gc.collect()
        assert seen() is None
        assert made() is None


# -- discovery ------------------------------------------------------------------------------------


def test_building_modules_is_left_alone(session: Session) -> None:
    """nn.Module is not patched: building thousands costs what it cost before."""
    names = ("__init__", "__call__", "__setattr__", "_call_impl", "register_parameter")
    assert all("surefoot" not in getattr(nn.Module, n).__module__ for n in names)
    assert all(not hasattr(getattr(nn.Module, n), "__wrapped__") for n in names)
    assert session.trainings == []


class Pretender:
    """Claims to be a module and fails at everything else."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return nn.Linear

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


class Touchy:
    """A proxy that fails even when asked for its class."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise ValueError("do not look at me")


def test_odd_objects_do_not_break_discovery(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [[Pretender()], [Touchy()], [object.__new__(nn.Linear)]]
    case = dropout("")
    for i in range(3):
        case.step(i)
    assert not caplog.records
    assert [t.layers.model for t in session.trainings] == ["Sequential"]
    assert session.trainings[0].step == 3
    del odd


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_a_copy_carries_no_hook(steps: int, session: Session, tmp_path: Path) -> None:
    """Averages, target networks, checkpoints of the whole module, processes that are sent one."""
    case = dropout("")
    model = case.modules[0]
    mine = model.register_forward_hook(nothing)
    for i in range(steps):
        case.step(i)
    model(torch.randn(16, 8))  # the instrumented forward is under way
    torch.save(model, tmp_path / "model.pt")
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
        torch.optim.swa_utils.AveragedModel(model).module,
    ):
        held = [h for m in twin.modules() for h in (*m._forward_hooks.values(), *hidden(m))]
        assert held == [nothing]
        assert torch.equal(twin[0].weight, model[0].weight)
    assert any(getattr(h, "of_surefoot", False) for h in model._forward_hooks.values())
    mine.remove()
    case.step(steps)
    assert session.trainings[0].step == steps + 1


def nothing(*args: Any) -> None:
    """A hook of the user's."""


def hidden(module: nn.Module) -> list[Any]:
    """All other hooks of a module, and the marks that belong to hooks."""
    marks = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [*module._forward_pre_hooks.values(), *(k for m in marks for k in getattr(module, m))]


def test_a_second_model_is_told_apart(session: Session) -> None:
    case = dropout("")
    twin = copy.deepcopy(case.modules[0])
    for i in range(3):
        case.step(i)
    second = dropout("")
    second.step(0)
    assert [t.step for t in session.trainings] == [3, 1]
    assert twin[0].weight.grad is None
