"""Guards beside GradScaler: what it refuses is its own affair, up to a point."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from surefoot.guarding.acts import Rung
from test_guard_modes import BACK, SKIP, Make, acts, finite, loss_of, sgd, spoil_weight
from test_guard_steps import batches, guards, network, same, spoilt, state

__all__ = ["guards"]  # the fixture
FUSED = pytest.mark.parametrize("fused", [False, True])


def scaled(
    model: nn.Module,
    optimizer: Any,
    data: list[tuple[torch.Tensor, torch.Tensor]],
    scale: float = 1024.0,
) -> Iterator[tuple[int, torch.amp.GradScaler]]:
    """A training with a scaler, which stops after each step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    for i, (x, y) in enumerate(data):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x, y)).backward()
        scaler.step(optimizer)
        scaler.update()
        yield i, scaler


@FUSED
def test_what_the_scaler_refuses_is_left_to_it_and_forgotten(fused: bool, guards: Make) -> None:
    """All is as without a guard, but for the running statistics, which are NaN there."""
    runs, scales = [], []
    for guarded in (False, True):
        model = network()
        optimizer = sgd(model, fused=fused)
        guard = guards(optimizer, model) if guarded else None
        data = batches(60)
        for bad in (20, 40, 41):
            data[bad] = (data[bad][0] * math.nan, data[bad][1])
        for _, scaler in scaled(model, optimizer, data):
            scales.append(scaler.get_scale())
        runs.append([list(model.parameters()), optimizer.state_dict()])
        assert finite(model) == guarded
    assert guard is not None and acts(guard) == []
    assert (guard.steps, guard.nonfinite) == (60, 3)
    assert same(*runs)
    assert scales[:60] == scales[60:] and scales[-1] == 128.0


@FUSED
def test_under_a_scaler_a_leap_is_skipped_without_a_trace(fused: bool, guards: Make) -> None:
    runs = []
    for guarded in (False, True):
        model = network()
        optimizer = sgd(model, fused=fused)
        guard = guards(optimizer, model) if guarded else None
        data = batches(60)
        if not guarded:
            del data[30]
        for i, _ in scaled(model, optimizer, data):
            if guarded and i == 29:
                spoilt(model, data[30][0], "large")
        runs.append(state(model, optimizer))
    assert guard is not None and acts(guard) == [(30, SKIP)]
    assert same(*runs)
    assert not hasattr(optimizer, "found_inf") and not hasattr(optimizer, "grad_scale")


@FUSED
def test_a_scale_that_is_still_searched_for_is_no_fault(fused: bool, guards: Make) -> None:
    """Some sixty refusals in a row, from a scale of 2^127 down."""
    runs = []
    for guarded in (False, True):
        model = nn.Linear(6, 3)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-38, fused=fused)
        guard = guards(optimizer, model) if guarded else None
        data = [(x * 2.0**60, y) for x, y in batches(80)]
        *_, (_, scaler) = scaled(model, optimizer, data, 2.0**127)
        runs.append([state(model, optimizer), scaler.state_dict()])
    assert guard is not None and acts(guard) == []
    assert 50 < guard.nonfinite < 64 and scaler.get_scale() < 2.0**80
    assert same(*runs)


@FUSED
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_under_a_scaler_too_what_is_lost_for_good_is_halted(
    what: str, fused: bool, guards: Make
) -> None:
    """Where only the gradient is lost, as soon as the scale, which falls from 1024, explains
    nothing any more."""
    model = network()
    optimizer = sgd(model, fused=fused)
    guard = guards(optimizer, model)
    data = batches(300)
    if what == "loss":
        data[50:] = [(x * math.nan, y) for x, y in data[50:]]
    training = scaled(model, optimizer, data)
    for _ in range(50):
        next(training)
    if what == "gradient":
        model[3].weight.register_hook(lambda g: g * math.nan)  # type: ignore[index, operator]
    with pytest.raises(surefoot.TrainingHalted, match="not finite"):
        list(training)
    falls = 0 if what == "loss" else 10 + 9  # and again, rolled back with the rest
    assert guard.steps == 50 + 64 + falls
    assert [rung for _, rung in acts(guard)] == [BACK, Rung.HALT]
    assert finite(model)


@FUSED
def test_under_a_scaler_a_weight_that_became_nan_is_rolled_back(fused: bool, guards: Make) -> None:
    model = network()
    optimizer = sgd(model, fused=fused)
    guard = guards(optimizer, model)
    states, scales = [], []
    for i, scaler in scaled(model, optimizer, batches(120)):
        scales.append(scaler.get_scale())
        states.append(state(model, optimizer))
        if i == 99:
            spoil_weight(model, math.nan)
    assert acts(guard) == [(102, BACK)]
    assert sum(same(states[102], one) for one in states[:100]) == 1
    assert finite(model) and not same(states[-1], states[102])
    assert scales[99:104] == [
        1024.0,
        512.0,
        256.0,
        512.0,
        512.0,
    ]  # the kept one, halved for the step that rolled back
