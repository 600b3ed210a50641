"""Autocast, GradScaler and gradient accumulation: true values, once a step, refused steps known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modes_fixture as modes
from modes_fixture import Mode, batch, chain, cross_entropy, exact
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
# What a number may be off by after a network's worth of roundings in these dtypes.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 0.15}
OPTIMIZERS: dict[str, Make] = {
    "for loop": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, foreach=False),
    "foreach": lambda p: torch.optim.Adam(p, 1e-3, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, 1e-3, fused=True),
    "fused without moments": lambda p: torch.optim.SGD(p, 0.05, fused=True),
}


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def accumulating(
    parts: int, clip: bool = False, dtype: torch.dtype | None = None
) -> Callable[[], Mode]:
    """Several backward calls a step, with a share of the loss each."""

    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

        def step(i: int) -> float:
            total = 0.0
            for k in range(parts):
                x, y = batch(i, k)
                with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                    loss = F.cross_entropy(model(x), y) / parts
                loss.backward()
                total += loss.item()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            return total

        whole = exact(model, lambda i: [cross_entropy(i, k, 1 / parts) for k in range(parts)])
        return Mode([model], step, clipped(whole, 0.1) if clip else whole, [optimizer])

    return make


def clipped(
    norms: Callable[[int], dict[str, float]], most: float
) -> Callable[[int], dict[str, float]]:
    """What `clip_grad_norm_` leaves of them, by its definition."""

    def after(i: int) -> dict[str, float]:
        found = norms(i)
        factor = min(1.0, most / (math.hypot(*found.values()) + 1e-6))
        return {name: factor * x for name, x in found.items()}

    return after


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("parts", [1, 4, 20])
def test_the_whole_accumulated_gradient_is_measured_once_a_step(parts: int, clip: bool) -> None:
    session = modes.watch(accumulating(parts, clip))
    training, case = session.trainings[0], session.trainings[0].case()
    assert case.facts.backwards == parts * case.facts.steps
    assert len(case.flows[0].calls) == parts * 6
    assert len(training.taps.entry.entries if training.taps.entry else []) == 0
    assert not session.report().findings


@pytest.mark.parametrize("parts", [1, 20])
def test_what_is_kept_of_a_step_is_bounded(parts: int) -> None:
    session, make = Session(), accumulating(parts)
    session.start()
    try:
        mode = make()
        training = session.trainings[0]
        most = 0
        original = mode.optimizers[0].step

        def step(*args: object) -> object:
            nonlocal most
            tap = training.taps.entry
            assert tap is not None
            most = max(most, len(tap.entries))
            return original(*args)  # type: ignore[arg-type]

        mode.optimizers[0].step = step  # type: ignore[assignment, method-assign]
        for i in range(5):
            mode.step(i)
    finally:
        session.stop()
    assert most == min(parts, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parts", [1, 3])
def test_under_autocast(parts: int, dtype: torch.dtype) -> None:
    session = modes.watch(accumulating(parts, dtype=dtype), ROUNDING[dtype])
    flow = session.trainings[0].case().flows[0]
    assert {call.dtype for call in flow.calls} >= {str(dtype).removeprefix("torch.")}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(dtype: torch.dtype) -> None:
    def make() -> Mode:
        model = chain().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(i: int) -> float:
            x, y = batch(i)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.to(dtype)), y)
            loss.backward()
            optimizer.step()
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])

    modes.watch(make, ROUNDING[dtype])


# -- GradScaler ------------------------------------------------------------------------------------


def scaled(make_optimizer: Make, parts: int, unscale: bool, scale: float) -> Callable[[], Mode]:
    """In float32, where a scale that is a power of two changes nothing but the exponent."""

    def make() -> Mode:
        model = chain()
        optimizer = make_optimizer(list(model.parameters()))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)

        def step(i: int) -> float:
            total = 0.0
            for k in range(parts):
                x, y = batch(i, k)
                loss = F.cross_entropy(model(x), y) / parts
                scaler.scale(loss).backward()
                total += loss.item()
            if unscale:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            return total

        whole = exact(model, lambda i: [cross_entropy(i, k, 1 / parts) for k in range(parts)])
        return Mode([model], step, clipped(whole, 0.1) if unscale else whole, [optimizer])

    return make


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_true_gradients_and_losses_behind_a_scale(name: str, parts: int, unscale: bool) -> None:
    session = modes.watch(scaled(OPTIMIZERS[name], parts, unscale, 2.0**12))
    scales = session.trainings[0].case().get("loss_scaling").last
    grown = [2.0 ** (12 + i // 7) for i in range(modes.STEPS)]  # by the scaler's definition
    assert scales[:, 0].tolist() == grown
    assert not scales[:, 1].any()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refused_steps_are_rows_and_no_updates(name: str, unscale: bool) -> None:
    """The loss of every fifth step is infinite, so that the scaler lets none of them through."""

    def make() -> Mode:
        mode = scaled(OPTIMIZERS[name], 1, unscale, 1024.0)()
        model = mode.modules[0]
        hook = lambda module, args: (args[0] * math.inf,) if bad() else None  # noqa: E731
        model.register_forward_pre_hook(hook)
        now = [0]
        bad = lambda: now[0] % 5 == 4  # noqa: E731
        inner = mode.step

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
    assert case.facts.steps == modes.STEPS
    refused = case.get("loss_scaling").last[:, 1]
    assert refused.tolist() == [float(i % 5 == 4) for i in range(modes.STEPS)]
    updates = case.get("update_ratio")
    assert not set(updates.steps.tolist()) & {4, 9, 14, 19}
    assert (updates.last[:, 0] > 0).all()
    assert np.isfinite(case.get("gradient").last[refused == 0]).all()
