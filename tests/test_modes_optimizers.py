"""Optimizers in all their variants, one or several, over a model, its parts or what is tied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

import modes_fixture as modes
from modes_fixture import Mode, batch, chain, cross_entropy, exact, usual
from surefoot.watching.budget import Budget

Parameters = Iterable[nn.Parameter]
ADAPTIVE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
VARIANTS: dict[str, dict[str, bool]] = {
    "for loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "differentiable": {"differentiable": True},
    "capturable": {"capturable": True},
}


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def variants() -> list[tuple[type[torch.optim.Optimizer], str]]:
    """Those that exist on a CPU."""
    pairs = [(kind, name) for kind in (*ADAPTIVE, torch.optim.SGD) for name in VARIANTS]
    return [(kind, name) for kind, name in pairs if exists(kind, VARIANTS[name])]


def exists(kind: type[torch.optim.Optimizer], options: dict[str, bool]) -> bool:
    weight = nn.Parameter(torch.zeros(1))
    try:
        optimizer = kind([weight], lr=0.1, **options)
        weight.grad = torch.ones(1)
        optimizer.step()
    except (TypeError, RuntimeError, AssertionError):  # each says so in its own way
        return False
    return True


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable:UserWarning")
@pytest.mark.parametrize(("kind", "variant"), variants())
def test_every_variant(kind: type[torch.optim.Optimizer], variant: str) -> None:
    def make() -> Mode:
        model = chain()
        return usual(model, kind(model.parameters(), lr=1e-2, **VARIANTS[variant]))

    session = modes.watch(make)
    facts = session.trainings[0].case().facts
    assert (facts.optimizer, facts.optimizers) == (kind.__name__, 1)
    assert not session.report().findings


def test_the_variants_are_there() -> None:
    found = variants()
    for kind in (*ADAPTIVE, torch.optim.SGD):
        assert {"for loop", "foreach", "fused"} <= {name for k, name in found if k is kind}


CLOSED: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4),
    "LBFGS with a line search": lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
    "Adam": lambda p: torch.optim.Adam(p, 1e-2),
    "fused": lambda p: torch.optim.SGD(p, 1e-2, fused=True),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closures(name: str) -> None:
    """What counts is the gradient where the step begins, whatever a search tries after that."""

    def make() -> Mode:
        model = chain()
        optimizer = CLOSED[name](model.parameters())

        def step(i: int) -> float:
            x, y = batch(i)

            def again() -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            return optimizer.step(again).item()  # type: ignore[arg-type, union-attr]

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])

    session = modes.watch(make, rtol=1e-4)
    assert session.trainings[0].case().facts.backwards == modes.STEPS


# -- several ---------------------------------------------------------------------------------------


def parts(together: bool) -> Callable[[], Mode]:
    """One optimizer for each layer; stepped one after the other, or the last one later."""

    def make() -> Mode:
        model = chain()
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(model[0].parameters(), 0.1, momentum=0.9),
            torch.optim.Adam(model[2].parameters(), 1e-3, fused=True),
            torch.optim.Adagrad(model[4].parameters(), 1e-2),
        ]

        def step(i: int) -> float:
            x, y = batch(i)
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            return loss.item()

        whole = exact(model, lambda i: [cross_entropy(i)])
        return Mode([model], step, whole, optimizers)

    return make


def test_several_optimizers_over_parts_of_a_model_make_one_step() -> None:
    session = modes.watch(parts(together=True))
    assert len(session.trainings) == 1
    assert session.trainings[0].driver.count == 1  # of each parameter
    updates = session.trainings[0].case().get("update_ratio")
    assert (updates.last > 0).all()  # in one row, of all of them


def test_two_optimizers_over_the_whole_model() -> None:
    """They take turns, and each of their steps is one of the model's."""

    def make() -> Mode:
        model = chain()
        weights = list(model.parameters())
        pair = [torch.optim.SGD(weights, 0.1), torch.optim.Adam(weights, 1e-3)]

        def step(i: int) -> float:
            x, y = batch(i)
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            pair[i % 2].step()
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), pair)

    session = modes.watch(make)
    assert len(session.trainings) == 1
    assert not session.report().findings


# -- weights ---------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding and an output that share one matrix, and a layer that is used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 8)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x.argmax(1) % 4) + x
        for _ in range(3):
            x = torch.tanh(self.hidden(x))
        return self.out(x)


def test_tied_weights_are_counted_once_under_their_first_name() -> None:
    def make() -> Mode:
        model = Tied()
        return usual(model, torch.optim.Adam(model.parameters(), 1e-3))

    session = modes.watch(make)
    layers = session.trainings[0].layers
    names = [(p.name, p.aliases) for p in layers.parameters]
    assert names[0] == ("embedding.weight", ("out.weight",))
    assert [name for name, _ in names[1:]] == ["hidden.weight", "hidden.bias"]


def test_groups_that_come_later() -> None:
    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.Adam(model[4].parameters(), 1e-3)

        def step(i: int) -> float:
            if i in (6, 12):
                optimizer.add_param_group({"params": list(model[2 if i == 6 else 0].parameters())})
            x, y = batch(i)
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.item()

        whole = exact(model, lambda i: [cross_entropy(i)])

        def held(i: int) -> dict[str, float]:
            layers = ("4.", "2.", "0.")[: 1 + (i >= 6) + (i >= 12)]
            return {name: x for name, x in whole(i).items() if name.startswith(layers)}

        return Mode([model], step, held, [optimizer])

    session = modes.watch(make)
    assert session.trainings[0].case().facts.trained == frozenset(range(6))
    assert not session.report().findings


def test_a_layer_that_is_frozen_and_thawed() -> None:
    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        mode = usual(model, optimizer)
        inner = mode.step

        def step(i: int) -> float:
            model[0].requires_grad_(i >= 8)
            return inner(i)

        whole = mode.exact

        def unfrozen(i: int) -> Mapping[str, float]:
            model[0].requires_grad_(i >= 8)
            return whole(i)

        mode.exact, mode.step = unfrozen, step
        return mode

    session = modes.watch(make)
    assert not session.report().findings


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda o: CosineAnnealingLR(o, modes.STEPS),
    "one cycle, momentum too": lambda o: OneCycleLR(o, 0.2, total_steps=modes.STEPS + 1),
    "warm-up, then cosine": lambda o: SequentialLR(
        o, [LinearLR(o, total_iters=5), CosineAnnealingLR(o, 15)], [5]
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # from PyTorch 2.6's own SequentialLR
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers_that_wrap_the_step(name: str) -> None:
    rates: list[float] = []

    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        scheduler = SCHEDULES[name](optimizer)
        mode = usual(model, optimizer)
        inner = mode.step

        def step(i: int) -> float:
            rates.append(optimizer.param_groups[0]["lr"])
            loss = inner(i)
            scheduler.step()
            return loss

        mode.step = step
        return mode

    session = modes.watch(make)
    seen = session.trainings[0].case().get("learning_rate").last[:, 0]
    np.testing.assert_allclose(seen, rates[modes.STEPS :], rtol=1e-6)
    assert rates[modes.STEPS :] == rates[: modes.STEPS]
