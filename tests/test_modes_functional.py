"""torch.func, gradients that are taken by hand, inner loops: measured where a step exists."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import modes_fixture as modes
from modes_fixture import Mode, batch, chain, cross_entropy, exact
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session

Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def loss_of(model: nn.Module, weights: Weights, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(functional_call(model, weights, (x,)), y)


# -- without a backward call and without an optimizer ----------------------------------------------


def transformed() -> Mode:
    """`torch.func.grad` and an update by hand: there is neither a backward nor a step."""
    model = chain()
    weights = {k: v.detach().clone() for k, v in model.named_parameters()}
    gradient_of = grad_and_value(lambda w, x, y: loss_of(model, w, x, y))

    def step(i: int) -> float:
        found, loss = gradient_of(weights, *batch(i))
        for name, g in found.items():
            weights[name] = weights[name] - 0.1 * g
        model.load_state_dict(weights)
        return loss.item()

    return Mode([model], step)


def without_grad() -> Mode:
    """`torch.autograd.grad` and an update by hand: nothing is left in `.grad`."""
    model = chain()

    def step(i: int) -> float:
        x, y = batch(i)
        loss = F.cross_entropy(model(x), y)
        found = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), found, strict=True):
                p -= 0.1 * g
        return loss.item()

    return Mode([model], step)


@pytest.mark.parametrize("make", [transformed, without_grad])
def test_what_leaves_no_trace_is_left_alone_and_said_to_be_unseen(
    make: Callable[[], Mode],
) -> None:
    alone = modes.train(make)
    session = Session()
    watched = modes.train(make, session)
    modes.assert_unchanged(alone, watched)
    assert session._error is None and not session.trainings
    report = session.report()
    assert report.verdict == "inconclusive"
    assert "torch.func" in report.missing[0] and "optimizer" in report.missing[0]


# -- gradients that are handed to an optimizer -----------------------------------------------------


def assigned(way: str) -> Callable[[], Mode]:
    """`.grad` is set by hand: from autograd, from torch.func, or as a mean over the samples."""

    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)

        def gradient(x: torch.Tensor, y: torch.Tensor) -> tuple[Weights, torch.Tensor]:
            weights = dict(model.named_parameters())
            if way == "autograd":
                loss = F.cross_entropy(model(x), y)
                found = torch.autograd.grad(loss, list(weights.values()))
                return dict(zip(weights, found, strict=True)), loss
            free = {k: v.detach() for k, v in weights.items()}
            if way == "transform":
                return grad_and_value(lambda w: loss_of(model, w, x, y))(free)
            one = grad_and_value(lambda w, x, y: loss_of(model, w, x[None], y[None]))
            each, losses = vmap(one, (None, 0, 0))(free, x, y)
            return {k: g.mean(0) for k, g in each.items()}, losses.mean()

        def step(i: int) -> float:
            found, loss = gradient(*batch(i))
            for name, p in model.named_parameters():
                p.grad = found[name].detach()
            optimizer.step()
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])

    return make


@pytest.mark.parametrize("way", ["autograd", "transform", "samples"])
def test_gradients_that_are_set_by_hand_are_measured(way: str) -> None:
    session = modes.watch(assigned(way), losses=False)
    case = session.trainings[0].case()
    assert np.isnan(case.get("loss").last).all()  # no backward call that would tell it
    assert case.get("update_ratio").steps.tolist() == [0, 1, 2, 3, 4, 8, 16]
    assert not session.report().findings and not session.report().missing


def ensemble() -> Mode:
    """Three networks at once, whose stacked weights belong to no module."""
    members = [chain() for _ in range(3)]
    stacked, _ = stack_module_state(members)  # type: ignore[arg-type]
    base = copy.deepcopy(members[0]).to("meta")
    optimizer = torch.optim.Adam(stacked.values(), 1e-3)
    many = vmap(lambda w, x: functional_call(base, w, (x,)), (0, None))

    def total(weights: Weights, i: int) -> torch.Tensor:
        x, y = batch(i)
        out = many(weights, x.to(weights["0.weight"].dtype))
        return torch.stack([F.cross_entropy(o, y) for o in out]).sum()

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = total(stacked, i)
        loss.backward()
        optimizer.step()
        return loss.item()

    def norms(i: int) -> dict[str, float]:
        doubles = {k: v.detach().double().requires_grad_() for k, v in stacked.items()}
        found = torch.autograd.grad(total(doubles, i), list(doubles.values()))
        return {f"parameter.{k}": float(g.norm()) for k, g in enumerate(found)}

    return Mode([], step, norms, [optimizer])


def test_a_stateless_ensemble() -> None:
    session = modes.watch(ensemble)
    assert len(session.trainings) == 1
    assert not session.report().findings and not session.report().missing


# -- gradients of gradients ------------------------------------------------------------------------


def penalised() -> Mode:
    """The gradient at the input is a part of the loss."""
    model = chain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def penalty(network: nn.Module, i: int) -> torch.Tensor:
        x = batch(i)[0].to(next(network.parameters()).dtype).requires_grad_()
        slope = torch.autograd.grad(network(x).sum(), x, create_graph=True)[0]
        return cross_entropy(i)(network) + 0.1 * slope.square().sum()

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = penalty(model, i)
        loss.backward()
        optimizer.step()
        return loss.item()

    whole = exact(model, lambda i: [lambda network: penalty(network, i)])
    return Mode([model], step, whole, [optimizer])


def meta() -> Mode:
    """MAML: the loss after an inner step, through which the outer gradient goes back."""
    model = chain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def after(network: nn.Module, i: int, task: int) -> torch.Tensor:
        weights = dict(network.named_parameters())
        dtype = next(network.parameters()).dtype
        x, y = batch(i, 2 * task)
        inner = loss_of(network, weights, x.to(dtype), y)
        found = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        moved = {k: v - 0.1 * g for (k, v), g in zip(weights.items(), found, strict=True)}
        x, y = batch(i, 2 * task + 1)
        return loss_of(network, moved, x.to(dtype), y)

    def step(i: int) -> float:
        optimizer.zero_grad()
        total = 0.0
        for task in range(3):
            loss = after(model, i, task)
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    whole = exact(model, lambda i: [lambda n, t=t: after(n, i, t) for t in range(3)])
    return Mode([model], step, whole, [optimizer])


@pytest.mark.parametrize("make", [penalised, meta])
def test_second_derivatives_are_measured_with_all_the_rest(make: Callable[[], Mode]) -> None:
    session = modes.watch(make)
    assert not session.report().findings


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")
def test_a_graph_of_the_backward_is_kept() -> None:
    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(i: int) -> float:
            x, y = batch(i)
            loss = F.cross_entropy(model(x), y)
            loss.backward(create_graph=True)
            optimizer.step()
            for p in model.parameters():
                p.grad = None
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])

    modes.watch(make)


# -- inner loops with optimizers of their own ------------------------------------------------------


def copies() -> Mode:
    """Reptile-like: each task trains a copy by an optimizer of its own, and the model follows."""
    model = chain()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)

    def task(network: nn.Module, i: int, k: int) -> None:
        inner = torch.optim.SGD(network.parameters(), 0.1)
        for part in (2 * k, 2 * k + 1):
            inner.zero_grad()
            cross_entropy(i, part)(network).backward()
            inner.step()

    def moved(network: nn.Module, i: int) -> dict[str, torch.Tensor]:
        found = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        for k in range(3):
            twin = copy.deepcopy(network)
            task(twin, i, k)
            for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
                found[name] += (p - q).detach() / 3
        return found

    def step(i: int) -> float:
        for name, g in moved(model, i).items():
            model.get_parameter(name).grad = g
        optimizer.step()
        return 0.0

    def norms(i: int) -> dict[str, float]:
        doubles = moved(copy.deepcopy(model).double(), i)
        return {name: float(g.norm()) for name, g in doubles.items()}

    return Mode([model], step, norms, [optimizer])


def test_the_outer_loop_is_measured_whatever_trains_inside() -> None:
    session = modes.watch(copies, losses=False)
    assert len(session.trainings) <= 8  # of sixty that were begun and are gone
    assert not session.report().findings


def test_by_hand_with_gradients_left_in_place() -> None:
    def make() -> Mode:
        model = chain()

        def step(i: int) -> float:
            x, y = batch(i)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad  # type: ignore[operator]
                    p.grad = None
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]))

    session = modes.watch(make)
    assert not session.report().findings
