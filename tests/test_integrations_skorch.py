"""skorch and Ignite: copies of a net, several optimizers, errors of the script."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frameworks_fixture import (
    EPOCHS,
    MARKS,
    STEPS,
    callback,
    load,
    loader,
    network,
    rows,
)
from frameworks_fixture import skorch_net as net_of
from surefoot.findings import Verdict

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the tests look for traces."""
    load("skorch", "ignite")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = rows()
    return x.numpy(), y.numpy()


def test_a_net_can_be_cloned_pickled_and_searched() -> None:
    pytest.importorskip("skorch")
    import pickle

    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    net = net_of(None, callbacks=[("watch", callback("skorch", {"ignore": ["SF104"]}))])
    net.fit(*digits())
    for other in (clone(net), pickle.loads(pickle.dumps(net))):
        assert other.callbacks[0][1].ignore == ["SF104"]
        other.fit(*digits())
        assert dict(other.callbacks_)["watch"].report.steps == STEPS
    net.set_params(callbacks__watch__stop_on="fatal")
    search = GridSearchCV(net, {"lr": [1e-3, 2e-3]}, cv=2, scoring="accuracy")
    search.fit(*digits())
    assert dict(search.best_estimator_.callbacks_)["watch"].stop_on == "fatal"


def test_a_partial_fit_is_a_run_of_its_own_and_validation_is_none() -> None:
    pytest.importorskip("skorch")
    from skorch.dataset import ValidSplit

    watching = callback("skorch", {})
    net = net_of(None, callbacks=[watching])
    net.set_params(train_split=ValidSplit(2))
    net.fit(*digits())
    assert watching.report.steps == STEPS // 2
    net.partial_fit(*digits())
    assert watching.report.steps == STEPS // 2
    assert watching.report.verdict is not Verdict.UNSTABLE
    for epoch in net.history:
        norms = [b["surefoot/gradient_norm"] for b in epoch["batches"] if "train_loss" in b]
        assert len(norms) == STEPS // 2 // EPOCHS
        assert epoch["surefoot/gradient_norm"] == norms[-1]
        assert not any("surefoot/loss" in b for b in epoch["batches"] if "valid_loss" in b)


def test_an_error_of_the_script_is_ended_by_stop() -> None:
    pytest.importorskip("skorch")
    watching = callback("skorch", {})
    net = net_of(None, callbacks=[watching], criterion__ignore_index=-1)
    net.initialize()
    x, y = digits()
    y = y.copy()
    y[:] = 99  # no such class
    with pytest.raises(IndexError):
        net.fit(x, y)
    assert watching.report is None
    assert watching.stop().steps == 0
    assert not net.module_._forward_pre_hooks


def test_an_engine_with_two_optimizers_and_an_end_of_its_own() -> None:
    pytest.importorskip("ignite")
    from ignite.engine import Engine, Events

    from surefoot.integrations.ignite import SurefootHandler

    net = network()
    optimizers = [torch.optim.Adam(half.parameters(), lr=2e-3) for half in (net[:2], net[2:])]

    def step(engine: Any, batch: Any) -> float:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    engine = Engine(step)
    watching = SurefootHandler(verbose=False)
    watching.attach(engine, net, optimizers)
    seen: list[tuple[float, float]] = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: seen.append((e.state.output, e.state.metrics["surefoot/loss"])),
    )
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=20), lambda e: e.terminate())
    engine.run(loader(), max_epochs=5)
    assert watching.report.steps == 20
    assert [a for a, _ in seen] == pytest.approx([b for _, b in seen])
    assert engine.state.metrics["surefoot/gradient_norm_before_clipping"] > 0
    # A second run of the same engine is watched anew.
    engine.run(loader(), max_epochs=6)
    assert watching.report.steps == len(seen) - 20 > 0


def test_an_error_in_an_engine_is_the_scripts_own() -> None:
    pytest.importorskip("ignite")
    from ignite.engine import Engine

    from surefoot.integrations.ignite import SurefootHandler

    net = network()
    optimizer = torch.optim.Adam(net.parameters())

    def step(engine: Any, batch: Any) -> None:
        if engine.state.iteration == 3:
            raise ValueError("the script's own")
        optimizer.zero_grad()
        net(batch[0]).square().mean().backward()
        optimizer.step()

    engine = Engine(step)
    watching = SurefootHandler(verbose=False)
    watching.attach(engine, net, optimizer)
    with pytest.raises(ValueError, match="the script's own"):
        engine.run(loader())
    assert watching.stop().steps == 2
    assert not net._forward_pre_hooks
