"""Optimizers that act in the middle of backward, one for each parameter: one training, one step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modes_fixture as modes
import surefoot
from modes_fixture import Mode, Trunk, batch, chain, cross_entropy, exact
from surefoot.findings import Cause
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def by_hooks(model: nn.Module, leave: str = "none") -> list[torch.optim.Optimizer]:
    """As PyTorch's tutorial does it: step and free the gradient as soon as it is there.

    leave: names that begin like this are left to others.
    """
    own = [p for name, p in model.named_parameters() if not name.startswith(leave)]
    optimizers = {p: torch.optim.Adam([p], 1e-3) for p in own}

    def act(p: torch.Tensor) -> None:
        optimizers[p].step()  # type: ignore[index]
        optimizers[p].zero_grad()  # type: ignore[index]

    for p in own:
        p.register_post_accumulate_grad_hook(act)
    return list(optimizers.values())


def by_torch(model: nn.Module) -> list[torch.optim.Optimizer]:
    """As torch.distributed does it."""
    with warnings.catch_warnings():  # of torch's own, that it still scripts something
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch.distributed.optim import _apply_optimizer_in_backward
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    return [o for p in model.parameters() for o in p._in_backward_optimizers]  # type: ignore[attr-defined]


class Wrapper:
    """As torchtune's `OptimizerInBackwardWrapper`: looks like an optimizer, and is none."""

    def __init__(self, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    def step(self) -> None:
        """Nothing: they have acted."""

    def zero_grad(self, *args: Any) -> None:
        """Nothing: the gradients are gone."""

    def state_dict(self) -> dict[str, Any]:
        return {name: o.state_dict() for name, o in self.optimizers.items()}


def training(
    attach: Callable[[nn.Module], list[torch.optim.Optimizer]], model: Callable[[], nn.Module]
) -> Callable[[], Mode]:
    def make() -> Mode:
        network = model()
        optimizers = attach(network)
        wrapper = Wrapper(dict(enumerate(optimizers)))  # type: ignore[arg-type]

        def step(i: int) -> float:
            x, y = batch(i)
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            wrapper.step()
            wrapper.zero_grad()
            return loss.item()

        whole = exact(network, lambda i: [cross_entropy(i)])
        return Mode([network], step, whole, optimizers)

    return make


@pytest.mark.parametrize("attach", [by_hooks, by_torch])
@pytest.mark.parametrize("model", [chain, Trunk])
def test_they_are_one_training_of_one_step_each(
    attach: Callable[[nn.Module], list[torch.optim.Optimizer]], model: Callable[[], nn.Module]
) -> None:
    session = modes.watch(training(attach, model))
    case = session.trainings[0].case()
    assert len(session.trainings) == 1
    assert case.facts.optimizers == 1  # of each parameter
    assert case.facts.backwards == case.facts.steps == modes.STEPS
    assert case.facts.carried == 0
    updates = case.get("update_ratio")
    assert len(updates) == len(set(updates.steps.tolist()))
    assert (updates.last > 0).all()
    assert [f.step for f in case.flows] == [0, 4, 16]
    assert not session.report().findings


def test_they_may_be_given_to_a_watch_in_code() -> None:
    model = chain()
    optimizers = by_hooks(model)
    with surefoot.watch(model, optimizers) as watch:
        for i in range(6):
            x, y = batch(i)
            F.cross_entropy(model(x), y).backward()
    assert watch.report().verdict == "healthy" and watch.report().steps == 6
    assert len(watch._session.trainings) == 1


def test_hundreds_of_optimizers() -> None:
    def model() -> nn.Module:
        parts = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()) for _ in range(64)]
        return nn.Sequential(*parts, nn.Linear(8, 4))

    session = modes.watch(training(by_hooks, model), rtol=1e-4, steps=6)
    assert len(session.trainings) == 1
    assert len(session.trainings[0].layers.parameters) == 4 * 64 + 2


def test_some_act_in_backward_and_one_after_it() -> None:
    """The head's optimizer steps as usual: together they make one step."""

    def make() -> Mode:
        model = chain()
        inner = by_hooks(model, leave="4.")
        head = torch.optim.SGD(model[4].parameters(), 0.1)

        def step(i: int) -> float:
            x, y = batch(i)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            head.step()
            head.zero_grad()
            return loss.item()

        whole = exact(model, lambda i: [cross_entropy(i)])
        return Mode([model], step, whole, [*inner, head])

    session = modes.watch(make)
    assert len(session.trainings) == 1
    assert not session.report().findings


def test_a_lost_step_is_an_alarm_and_nothing_is_tried_again() -> None:
    """The weights have moved when it is known, so that a replay would be another step's."""

    def make() -> Mode:
        mode = training(by_hooks, chain)()
        model, inner = mode.modules[0], mode.step
        now = [0]
        model.register_forward_pre_hook(
            lambda module, args: (args[0] * math.nan,) if now[0] == 12 else None
        )

        def step(i: int) -> float:
            now[0] = i
            return inner(i)

        return Mode([model], step, lambda i: {}, mode.optimizers)

    alone = modes.train(make)
    session = Session()
    watched = modes.train(make, session)
    modes.assert_unchanged(alone, watched)
    assert session._error is None
    case = session.trainings[0].case()
    alarm = case.alarms[0]
    assert (alarm.step, alarm.detail["kind"]) == (12, "nonfinite")
    assert alarm.detail["replay"].startswith("the optimizers act in the middle of backward")
    assert not case.inquiries
    root = session.report().root
    assert root is not None and root.first_step == 12


def test_gradients_that_are_not_zeroed_are_still_told() -> None:
    """One optimizer after backward, as a control: the fault is found there as ever."""
    session = Session()
    session.start()
    try:
        torch.manual_seed(0)
        model = chain()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for i in range(60):
            x, y = batch(i)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    finally:
        session.stop()
    assert {f.cause for f in session.report().findings} == {Cause.GRADIENTS_NOT_ZEROED}


def test_a_training_without_an_optimizer_of_torchs() -> None:
    """An update by hand in the hook: the end of backward stands for the step."""

    def make() -> Mode:
        model = chain()

        def act(p: torch.Tensor) -> None:
            with torch.no_grad():
                p -= 0.1 * p.grad  # type: ignore[operator]

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(act)

        def step(i: int) -> float:
            model.zero_grad()
            x, y = batch(i)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]))

    session = modes.watch(make)
    assert np.isfinite(session.trainings[0].case().get("gradient").last).all()
