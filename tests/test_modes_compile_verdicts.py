"""A compiled network with a known fault: the same rule, layer and origin as of the eager one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import surefoot
from modes_fixture import Trunk, batch
from modes_fixture import fresh_compiler as fresh_compiler
from modes_fixture import patched_by_torch as patched_by_torch
from surefoot.findings import Report
from surefoot.record import new_folder, read_run
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session

X, Y = (torch.tensor(a) for a in load_digits(return_X_y=True))
X = ((X - X.mean(0)) / (X.std(0) + 1e-6)).float()
BACKEND = "aot_eager"


@pytest.fixture
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instrumented step that could be taken is taken, however slow the machine is."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


class Deep(nn.Module):
    """Twenty sigmoid layers: the gradient dies on its way to the first ones."""

    def __init__(self) -> None:
        super().__init__()
        widths = [64] + 20 * [32]
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.out = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.out(x)


class Logarithm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x)


class Undefined(nn.Module):
    """A logarithm of what ReLU makes, which is nought one day: kept away from it until then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(64, 32), nn.ReLU()
        self.logarithm, self.out = Logarithm(), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
        return self.out(self.logarithm(self.relu(self.first(x)) + least))


def as_it_is(model: nn.Module) -> nn.Module:
    return model


def form(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend=BACKEND)


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend=BACKEND)
    return model


def deep(way: Callable[[nn.Module], nn.Module]) -> Session:
    return digits(Deep(), way, lambda step, x: (x,))


def undefined(way: Callable[[nn.Module], nn.Module]) -> Session:
    least = [torch.tensor(1.0), torch.tensor(0.0)]
    return digits(Undefined(), way, lambda step, x: (x, least[step == 30]))


def digits(
    model: nn.Module,
    way: Callable[[nn.Module], nn.Module],
    inputs: Callable[[int, torch.Tensor], tuple[torch.Tensor, ...]],
) -> Session:
    session = Session()
    session.start()
    try:
        torch.manual_seed(0)
        for p in model.parameters():  # made before the seed was set
            nn.init.normal_(p, std=0.2) if p.dim() > 1 else nn.init.zeros_(p)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        called = way(model)
        for step in range(60):
            rows = torch.arange(32 * step, 32 * step + 32) % len(X)
            optimizer.zero_grad()
            F.cross_entropy(called(*inputs(step, X[rows])), Y[rows]).backward()
            optimizer.step()
    finally:
        session.stop()
    assert session._error is None
    return session


def said(report: Report) -> list[tuple[object, ...]]:
    return [(f.rule, f.cause, f.layer, f.root, f.victims, f.first_step) for f in report.findings]


@pytest.mark.parametrize("way", [form, in_place])
@pytest.mark.parametrize("fault", [deep, undefined])
def test_the_verdict_is_that_of_the_eager_network(
    fault: Callable[[Callable[[nn.Module], nn.Module]], Session],
    way: Callable[[nn.Module], nn.Module],
) -> None:
    eager, compiled = fault(as_it_is).report(), fault(way).report()
    assert eager.root is not None
    assert said(compiled) == said(eager)
    assert compiled.root is not None and compiled.root.sentence == eager.root.sentence


def test_the_known_origin_is_found() -> None:
    root = undefined(form).report().root
    assert root is not None and root.layer == "logarithm" and root.first_step == 30


@pytest.mark.parametrize("way", [form, in_place])
def test_the_replay_of_a_compiled_step_is_exact(way: Callable[[nn.Module], nn.Module]) -> None:
    alarm = undefined(way).trainings[0].case().alarms[0]
    assert (alarm.step, alarm.detail["replay"]) == (30, "exact")


def test_without_a_second_pass_it_is_said_what_is_missing() -> None:
    model = Trunk()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    called = form(model)
    with surefoot.watch(model, optimizer, forensics=False) as watch:
        for i in range(5):
            x, y = batch(i)
            F.cross_entropy(called(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watch.report().verdict == "inconclusive"
    assert "forbidden by option" in watch.report().missing[0]


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("given", ["model", "form"])
def test_what_was_compiled_before_the_watch_is_known(given: str) -> None:
    model = Trunk()
    called = form(model)
    called(batch(0)[0])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with surefoot.watch(model if given == "model" else called, optimizer) as watch:
        for i in range(5):
            x, y = batch(i)
            F.cross_entropy(called(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    training = watch._session.trainings[0]
    assert [(f.step, len(f.calls)) for f in training.ledger.flows] == [(0, 15), (4, 15)]
    assert not torch.isnan(torch.tensor(training.case().get("input").last)).any()
    assert training.layers.parameters[0].name == "stem.weight"
    assert watch.report().verdict == "healthy"


def blocks(model: nn.Module) -> nn.Module:
    for name, part in list(model.named_children()):
        setattr(model, name, torch.compile(part, backend=BACKEND))
    return model


@pytest.mark.parametrize("way", [form, in_place, blocks])
def test_a_compiled_model_is_checked_before_training_as_any_other(
    way: Callable[[nn.Module], nn.Module],
) -> None:
    said = []
    for make in (as_it_is, way):
        torch.manual_seed(0)
        parts = [x for _ in range(6) for x in (nn.Linear(64, 64), nn.Sigmoid())]
        model = make(nn.Sequential(*parts, nn.Linear(64, 10)))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        check = surefoot.check(model, (X[:64], Y[:64]), F.cross_entropy, optimizer)
        said.append((str(check), check.gauges, check.layers))
    assert said[0] == said[1]
    assert "unstable" in said[0][0]


@pytest.mark.usefixtures("lavish")
def test_a_run_that_is_recorded_says_the_same(tmp_path: Path) -> None:
    """What is written down for a compiled model is read back."""
    folder = new_folder(tmp_path, "run", None)
    session = Session(folder=folder)
    session.start()
    try:
        model = Trunk()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        called = form(model)
        for i in range(6):
            x, y = batch(i)
            optimizer.zero_grad()
            F.cross_entropy(called(x), y).backward()
            optimizer.step()
    finally:
        session.stop()
    data = read_run(folder)
    assert [len(flow.calls) for flow in data.flows] == [15, 15]
    assert len(data.series["block_scale"]) == 2
