"""What the entry tap keeps alive: a few calls of the step under way, and after it nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from replay_fixture import assert_exact
from surefoot.layers import build_table
from surefoot.probes.replay import replay
from surefoot.probes.tap import MOST, EntryTap
from surefoot.watching.session import Session


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is freed is freed by its last reference: nothing waits for the cycle collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Live:
    """The tensors of those that were noted which are still alive."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[torch.Tensor]] = []

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        self.refs.append(weakref.ref(tensor))
        return tensor

    def __len__(self) -> int:
        return sum(ref() is not None for ref in self.refs)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))


def test_of_a_step_its_inputs_and_what_came_back_are_kept_and_no_output() -> None:
    model, live, outputs, came = network(), Live(), Live(), Live()
    tap = EntryTap([model])
    y = outputs.note(model(live.note(torch.randn(16, 6))))
    y.register_hook(lambda g: (came.note(g), None)[1])
    y.square().mean().backward()
    del y
    assert (len(live), len(came), len(outputs)) == (1, 1, 0)
    tap.clear()
    assert (len(live), len(came), len(outputs)) == (0, 0, 0)
    tap.remove()


def test_marks_keep_nothing_either() -> None:
    model, live = network(), Live()
    tap = EntryTap([model])
    tap.marking = tap.keeping = True
    y = live.note(model(live.note(torch.randn(16, 6))))
    y.square().mean().backward()
    del y
    tap.clear()
    assert len(live) == 0
    tap.remove()


def test_an_output_that_the_script_keeps_does_not_keep_the_input() -> None:
    model, live, kept = network(), Live(), []
    tap = EntryTap([model])
    for _ in range(20):
        kept.append(model(live.note(torch.randn(16, 6))))
        kept[-1].square().mean().backward()
        tap.clear()
    assert len(live) == 0
    kept[0].grad_fn  # noqa: B018 (the graph is the script's and still there)
    tap.remove()


def test_a_backward_after_the_step_is_over_is_not_kept() -> None:
    model, came = network(), Live()
    tap = EntryTap([model])
    y = model(torch.randn(16, 6))
    tap.clear()
    y.register_hook(lambda g: (came.note(g), None)[1])
    y.square().mean().backward()
    assert len(came) == 0
    tap.remove()


def test_of_a_thousand_micro_batches_eight_are_kept() -> None:
    model, live = network(), Live()
    tap = EntryTap([model])
    for i in range(1000):
        model(live.note(torch.randn(16, 6))).square().mean().backward()
        assert len(live) <= min(i + 1, MOST)
    assert tap.overflowed
    tap.clear()
    assert len(live) == 0
    assert not tap.overflowed
    tap.remove()


def test_calls_without_gradient_keep_nothing() -> None:
    model, live = network(), Live()
    tap = EntryTap([model])
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            for _ in range(50):
                model(live.note(torch.randn(16, 6)))
    assert len(live) == 0
    assert not tap.entries
    assert not tap.overflowed
    tap.remove()


def test_a_validation_that_forgot_no_grad_does_not_crowd_out_the_step() -> None:
    """Its outputs are gone without a backward, so no gradient can come to its entries."""
    model, live = network(), Live()
    tap = EntryTap([model])
    for _ in range(100):
        model(live.note(torch.randn(16, 6))).square().mean().item()
        assert len(live) <= MOST
    model(torch.randn(16, 6)).square().mean().backward()
    assert not tap.overflowed
    table, modules, _ = build_table([model])
    own = {id(p): p.grad for p in model.parameters() if p.grad is not None}
    assert_exact(replay(0, tap.entries, table, modules, own), model)
    tap.remove()


def test_outputs_that_are_still_alive_are_waited_for() -> None:
    model = network()
    tap = EntryTap([model])
    waiting = [model(torch.randn(16, 6)) for _ in range(MOST)]
    model(torch.randn(16, 6))
    assert tap.overflowed
    sum(y.square().mean() for y in waiting).backward()  # type: ignore[union-attr]
    assert all(e.received for e in tap.entries)
    tap.remove()


def test_the_graph_of_a_gradient_is_not_kept() -> None:
    model, live = network(), Live()
    tap = EntryTap([model])
    x = torch.randn(16, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
    (gradient,) = (g for e in tap.entries for _, _, g in e.received)
    assert not gradient.requires_grad
    live.note(slope)
    del slope
    assert len(live) == 0
    tap.remove()


def test_nothing_is_alive_after_a_step_under_watch() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    live = Live()
    session = Session(adopt=False)
    session.start()
    session.watch(model, optimizer)
    for _ in range(40):
        optimizer.zero_grad()
        for _ in range(3):
            loss: Any = live.note(model(live.note(torch.randn(16, 6)))).square().mean()
            loss.backward()
            del loss
        optimizer.step()
        assert len(live) == 0
    session.stop()


def test_a_thousand_micro_batches_under_watch() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    live, most = Live(), 0
    session = Session(adopt=False)
    session.start()
    session.watch(model, optimizer)
    for _ in range(2):
        for _ in range(1000):
            model(live.note(torch.randn(4, 6))).square().mean().backward()
            most = max(most, len(live)) if len(live.refs) % 50 == 0 else most
        optimizer.step()
        optimizer.zero_grad()
        assert len(live) == 0
    assert most <= MOST
    session.stop()
