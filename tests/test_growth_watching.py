"""Watching does not grow with what a training does, however often: memory after as much again.

Counted are the blocks of memory of Python's objects, in a session without a record (`test_growth`
has that). A list that kept one number at every round would be caught in each of these.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import surefoot
from surefoot.attach.loaders import Drawn
from surefoot.probes.compiled_calls import Door
from surefoot.watching.places import Places
from surefoot.watching.session import Session
from surefoot.watching.turns import Turns
from zoo_fixture import mostly_zoo

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
Round = Callable[[int], object]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
    optimizer.zero_grad()
    (factor * F.cross_entropy(net(X), Y)).backward()
    optimizer.step()


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session()
    made.start()
    yield made
    made.stop()
    assert made._error is None


def held() -> int:
    """Blocks of memory that Python objects take, whatever their kind."""
    gc.collect()
    return sys.getallocatedblocks()


def grown(one: Round, rounds: int) -> int:
    """Blocks more after twice as many rounds as after half of them, all caches being warm."""
    for i in range(rounds):
        one(i)
    before = held()
    for i in range(rounds, 2 * rounds):
        one(i)
    return held() - before


# -- what a script may do for ever: each makes a round ---------------------------------------------


def steps() -> Round:
    net = model()
    optimizer = torch.optim.Adam(net.parameters())
    return lambda i: step(net, optimizer)


def spikes() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-9)
    return lambda i: step(net, optimizer, 1e6 if i > 50 and i % 5 == 0 else 1.0)


def gradients_that_are_not_finite() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)

    def one(i: int) -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        grad = net[0].weight.grad
        assert isinstance(grad, torch.Tensor)
        if i % 2:
            grad[0] = torch.nan
        before = net[0].weight.detach().clone()
        optimizer.step()
        net[0].weight.data = before

    return one


def micro_batches_without_a_step() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters())
    step(net, optimizer)
    return lambda i: F.cross_entropy(net(X), Y).backward()


def many_losses_of_one_output() -> Round:
    """As a Jacobian is made, row by row, in steps whose loss is read."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters())
    step(net, optimizer)
    out = net(X)
    return lambda i: out[i % 32].square().sum().backward(retain_graph=True)


def forwards_alone() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters())
    step(net, optimizer)
    return lambda i: net(X)


def gradients_without_an_optimizer() -> Round:
    net = model()

    def one(i: int) -> None:
        net.zero_grad()
        F.cross_entropy(net(X), Y).backward()

    return one


def epochs() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters())
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)

    def one(i: int) -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        next(iter(loader))  # and one that is never exhausted

    return one


def an_optimizer_for_every_step() -> Round:
    """Kept for a while, so that the next one has another address."""
    net, kept = model(), []

    def one(i: int) -> None:
        kept.append(torch.optim.SGD(net.parameters(), 1e-3))
        step(net, kept[-1])
        if len(kept) > 50:
            del kept[i * 7 % 50]

    return one


def two_optimizers_for_every_step() -> Round:
    net = model()

    def one(i: int) -> None:
        first, second = (torch.optim.SGD(net[k].parameters(), 1e-3) for k in (0, 2))
        step(net, first)
        second.step()

    return one


def a_model_for_every_step() -> Round:
    def one(i: int) -> None:
        net = model()
        step(net, torch.optim.SGD(net.parameters(), 1e-3))

    return one


def refused_steps() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=2)

    def one(i: int) -> None:
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(net(X), Y)).backward()
        scaler.step(optimizer)
        scaler.update()

    return one


def closures() -> Round:
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), 0.01, max_iter=2)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(X), Y)
        loss.backward()
        return loss

    return lambda i: optimizer.step(closure)


def steps_that_raise() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)

    def refuse(*_: Any) -> None:
        raise RuntimeError

    def one(i: int) -> None:
        with contextlib.suppress(RuntimeError):
            optimizer.step(lambda: None if i % 2 else 0.0)

    step(net, optimizer)
    optimizer.register_step_pre_hook(refuse)
    return one


def watches() -> Round:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)

    def one(i: int) -> None:
        if i % 25 == 0:
            with surefoot.watch(net, optimizer) as watch:
                step(net, optimizer)
            assert watch.report().steps == 1

    return one


ENDLESS = (
    steps,
    spikes,
    gradients_that_are_not_finite,
    micro_batches_without_a_step,
    many_losses_of_one_output,
    forwards_alone,
    gradients_without_an_optimizer,
    epochs,
    an_optimizer_for_every_step,
    two_optimizers_for_every_step,
    a_model_for_every_step,
    refused_steps,
    closures,
    steps_that_raise,
)


SUITE = ("steps", "spikes", "closures", "a_model_for_every_step")


@pytest.mark.parametrize("make", mostly_zoo(ENDLESS, *SUITE), ids=lambda make: make.__name__)
def test_memory_does_not_grow(make: Callable[[], Round], session: Session) -> None:
    assert grown(make(), 600) < 400


@pytest.mark.zoo
def test_a_watch_that_has_ended_leaves_nothing_behind() -> None:
    assert grown(watches(), 500) < 50


def test_forms_that_are_gone_are_forgotten(session: Session) -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    step(net, optimizer)
    for _ in range(100):
        torch.compile(net, backend="eager")  # it would be compiled when it is first called
    gc.collect()
    last = torch.compile(net, backend="eager")
    (training,) = session.trainings
    assert training.taps.entry is not None
    doors = [h for h in training.taps.entry._handles if isinstance(h, Door)]
    assert len(session._forms) == len(training.taps._forms) == len(doors) == 1
    del last


def test_more_losses_in_a_step_than_are_kept_are_let_go_of(session: Session) -> None:
    """Nothing of the script's outlives it, and the step is not made again from a part of them."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    step(net, optimizer)
    out = net(X)
    for i in range(200):
        out[i % 32].square().sum().backward(retain_graph=True)
    (training,) = session.trainings
    assert training.taps.entry is not None
    (entry,) = training.taps.entry.entries
    assert len(entry.received) == 1 and "more backward passes" in entry.refusal()
    assert not training.forensics._criteria
    optimizer.step()
    assert not training.taps.entry.entries and training.step == 2


# -- the bounds themselves, where addresses used again would hide them -----------------------------


def test_turns_of_optimizers_long_gone_are_forgotten() -> None:
    turns = Turns()
    for key in range(10_000):
        turns.stepped.add(key)
        assert turns.complete({key})
        turns.end()
    assert len(turns._regular) <= 1024


def test_places_of_optimizers_long_gone_are_forgotten() -> None:
    net = model()
    parameters = list(net.parameters())
    places = Places(parameters)
    for key in range(10_000):
        order = places.order(key, parameters[key % 3 :])
        assert order.tolist() == list(range(key % 3, 4))
    assert len(places._orders) <= 128
    assert places.order(0, parameters).tolist() == [0, 1, 2, 3]  # known again when it is asked for
    assert places.unfed(np.zeros(4, int))


def test_one_optimizer_for_each_of_many_parameters_is_remembered() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(300)]
    places = Places(parameters)
    for _ in range(2):
        for key, parameter in enumerate(parameters):
            assert places.order(key, [parameter]).tolist() == [key]
    assert len(places.unfed(np.zeros(300, int))) == 300


def test_a_loader_whose_batches_are_fetched_behind_our_back_is_let_go_of() -> None:
    class Iterator:
        _num_workers = 2

    drawn, loader = Drawn(), Iterator()
    drawn.reset(loader)
    for i in range(10_000):
        drawn.drawn(loader, [i])
    assert sum(map(len, drawn._ahead.values())) <= 4096
    batch = torch.zeros(1)
    drawn.fetched(loader, batch)
    assert drawn.indices([batch], 1) == ()  # whose they are is no longer known
