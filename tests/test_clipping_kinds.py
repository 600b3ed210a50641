"""Each clipping against its formula, written down once more in plain Python, and its manners."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import surefoot
from surefoot.guarding.clipping import CLIPPINGS, Clipping
from surefoot.guarding.clipping.agc import AGC
from surefoot.guarding.clipping.value import Value

SHAPES = [(6, 4), (6,), (3, 6, 2, 2), (5, 3), (5,), ()]
Step = list[np.ndarray]
Formula = Callable[[Step, Step], Step]  # (weights, gradients) of a step -> clipped gradients


def norm_of(step: Step) -> float:
    return math.sqrt(sum(float((g**2).sum()) for g in step))


def norm() -> Formula:
    return lambda _, step: [g * min(1.0, 1.0 / (norm_of(step) + 1e-6)) for g in step]


def value() -> Formula:
    return lambda _, step: [np.clip(g, -1.0, 1.0) for g in step]


def parameter_norm() -> Formula:
    return lambda _, step: [g * min(1.0, 1.0 / (norm_of([g]) + 1e-6)) for g in step]


def agc() -> Formula:
    """Unit by unit; the head (from the last matrix on) is left alone."""

    def unit(w: np.ndarray, g: np.ndarray) -> np.ndarray:
        limit = 0.01 * max(float(np.sqrt((w**2).sum())), 1e-3)
        size = float(np.sqrt((g**2).sum()))
        return g * (limit / size) if size > limit else g

    def clip(weights: Step, step: Step) -> Step:
        clipped = []
        for index, (w, g) in enumerate(zip(weights, step, strict=True)):
            if index >= 3:
                clipped.append(g)
            elif g.ndim <= 1:
                clipped.append(unit(w, g))
            else:
                clipped.append(np.stack([unit(a, b) for a, b in zip(w, g, strict=True)]))
        return clipped

    return clip


def autoclip() -> Formula:
    seen: list[float] = []

    def clip(_: Step, step: Step) -> Step:
        seen.append(norm_of(step))
        limit = float(np.percentile(seen, 10, method="higher"))
        return [g * min(1.0, limit / seen[-1]) for g in step]

    return clip


def zclip() -> Formula:
    first: list[float] = []
    state = {}

    def clip(_: Step, step: Step) -> Step:
        size = norm_of(step)
        if len(first) < 25:
            first.append(size)
            if len(first) == 25:
                state["m"] = sum(first) / 25
                state["v"] = sum((x - state["m"]) ** 2 for x in first) / 25
            return step
        deviation = math.sqrt(state["v"])
        z = (size - state["m"]) / (deviation + 1e-6)
        used = state["m"] + 2.5 * deviation / (z / 2.5) if z > 2.5 else size
        state["m"] = 0.97 * state["m"] + 0.03 * used
        state["v"] = 0.97 * state["v"] + 0.03 * (used - state["m"]) ** 2
        return [g * min(1.0, used / size) for g in step]

    return clip


def adagc() -> Formula:
    averages: list[float] = []
    steps = [0]

    def clip(_: Step, step: Step) -> Step:
        steps[0] += 1
        if steps[0] < 100:
            clipped = [g * min(1.0, 1.0 / norm_of(step)) for g in step]
            sizes = [norm_of([g]) for g in clipped]
            averages[:] = sizes if steps[0] == 1 else map(min, averages, sizes)
            return clipped
        clipped = []
        for i, g in enumerate(step):
            cut = g * min(1.0, 1.05 * averages[i] / norm_of([g]))
            averages[i] = 0.98 * averages[i] + 0.02 * norm_of([cut])
            clipped.append(cut)
        return clipped

    return clip


FORMULAS = {f.__name__: f for f in (norm, value, parameter_norm, agc, autoclip, zclip, adagc)}
EXACT = {"autoclip": 0.012}  # counted in 64 steps an octave


def steps(count: int) -> list[Step]:
    """Gradients whose norm wanders about one, with a burst now and then, in one layer or in all."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        scale = 0.15 * math.exp(0.3 * rng.standard_normal())
        step = [scale * rng.standard_normal(shape) for shape in SHAPES]
        if k % 17 == 16 and k > 25:
            step = [30 * g for g in step]
        if k % 23 == 22:
            step[k % len(SHAPES)] = 50 * step[k % len(SHAPES)]
        made.append([np.asarray(g) for g in step])
    return made


def weights() -> list[nn.Parameter]:
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]


def test_every_clipping_has_a_formula_here() -> None:
    assert FORMULAS.keys() == CLIPPINGS.keys()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", CLIPPINGS)
def test_it_is_what_its_authors_define(name: str, fused: bool) -> None:
    formula, made = FORMULAS[name](), weights()
    optimizer = torch.optim.SGD(made, lr=0.0, fused=fused)
    guard = surefoot.guard(optimizer, clip=name, skip=False)
    expected_clipped = 0
    for step in steps(150):
        for p, g in zip(made, step, strict=True):
            p.grad = torch.tensor(g)
        expected = formula([p.detach().numpy() for p in made], step)
        expected_clipped += any(
            not np.allclose(a, b, rtol=EXACT.get(name, 1e-9), atol=0)
            for a, b in zip(expected, step, strict=True)
        )
        optimizer.step()
        for p, e in zip(made, expected, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), e, rtol=EXACT.get(name, 2e-6), atol=1e-12)
    assert 3 < guard.clipped < 151
    if name not in EXACT:
        assert guard.clipped == expected_clipped


@pytest.mark.parametrize("name", CLIPPINGS)
def test_its_state_survives_a_checkpoint(name: str) -> None:
    made = weights()
    twins = [nn.Parameter(p.detach().clone()) for p in made]
    optimizers = [torch.optim.SGD(made, lr=0.0), torch.optim.SGD(twins, lr=0.0)]
    whole, fresh = [surefoot.guard(o, clip=name, skip=False) for o in optimizers]
    for k, step in enumerate(steps(150)):
        if k == 120:
            fresh.clip.load_state_dict(json.loads(json.dumps(whole.clip.state_dict())))
        for p, q, g in zip(made, twins, step, strict=True):
            p.grad, q.grad = torch.tensor(g), torch.tensor(g)
        optimizers[0].step()
        if k >= 120:
            optimizers[1].step()
            assert all(torch.equal(p.grad, q.grad) for p, q in zip(made, twins, strict=True))


@pytest.mark.parametrize("name", CLIPPINGS)
def test_a_step_that_is_not_finite_leaves_no_trace(name: str) -> None:
    """Nor does one in which a parameter has no gradient."""
    clipped = []
    for poisoned in (False, True):
        made = weights()
        optimizer = torch.optim.SGD(made, lr=0.0)
        surefoot.guard(optimizer, clip=name, skip=False)
        for k, step in enumerate(steps(140)):
            if poisoned and k % 10 == 3:
                for p, g in zip(made, step, strict=True):
                    p.grad = torch.tensor(g * (math.nan if k % 20 == 3 else math.inf))
                optimizer.step()
                for p, q in zip(made, weights(), strict=True):
                    p.data = q.data  # clipping alone does not keep them from harm
            for p, g in zip(made, step, strict=True):
                p.grad = torch.tensor(g)
            optimizer.step()
        clipped.append([p.grad for p in made])
    assert all(torch.equal(a, b) for a, b in zip(*clipped, strict=True))


@pytest.mark.parametrize("name", CLIPPINGS)
def test_odd_steps_do_no_harm(name: str) -> None:
    made = weights()
    optimizer = torch.optim.SGD(made, lr=0.0)
    guard = surefoot.guard(optimizer, clip=name, skip=False)
    for step in steps(130):
        optimizer.zero_grad()
        optimizer.step()  # without any gradient
        for k, (p, g) in enumerate(zip(made, step, strict=True)):
            p.grad = torch.zeros_like(p) if k % 2 else torch.tensor(g)
        made[1].grad = None
        optimizer.step()
        grads = [p.grad for p in made if p.grad is not None]
        assert all(bool(torch.isfinite(g).all()) for g in grads)
    assert guard.steps == 260
    optimizer.add_param_group({"params": [extra := nn.Parameter(torch.ones(3))]})
    extra.grad = torch.full((3,), 1e-3)
    optimizer.step()
    assert bool(torch.isfinite(extra.grad).all()) and guard.steps == 261


def test_zclip_does_not_learn_from_a_spike_in_its_first_steps() -> None:
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    surefoot.guard(optimizer, clip="zclip", skip=False)
    for k in range(60):
        weight.grad = torch.full((4,), 1.0 + 0.1 * (k % 3), dtype=torch.float64)
        if k in (5, 50):
            weight.grad *= 100
        optimizer.step()
        if k == 50:
            assert float(weight.grad.norm()) < 3.0


def test_agc_lets_a_scale_that_begins_at_zero_grow() -> None:
    scale, weight = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4, 4))
    head = nn.Parameter(torch.ones(2, 4))
    optimizer = torch.optim.SGD([weight, scale, head], lr=0.1)
    surefoot.guard(optimizer, clip=AGC(0.01), skip=False)
    for _ in range(20):
        scale.grad, weight.grad, head.grad = -torch.ones(4), torch.ones(4, 4), torch.ones(2, 4)
        optimizer.step()
    torch.testing.assert_close(scale.detach(), torch.full((4,), 2.0))
    # a row of norm 2 may have a gradient of 0.02: 0.01 an element, of which lr takes a tenth
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), (1 - 0.001) ** 20))
    torch.testing.assert_close(head.detach(), torch.full((2, 4), -1.0))


def test_under_a_scaler_a_bound_is_one_of_unscaled_elements() -> None:
    made = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    optimizer = torch.optim.SGD(made, lr=1.0, fused=True)
    surefoot.guard(optimizer, clip=Value(0.5), skip=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = (made[0] * torch.tensor([0.1, 2.0, -3.0])).sum() + 0.2 * made[1].sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(made[0].detach(), torch.tensor([-0.1, -0.5, 0.5]))
    torch.testing.assert_close(made[1].detach(), torch.full((3,), -0.2))


def test_a_clipping_of_ones_own() -> None:
    class Halving:
        name = "halving"

        def cut(self, gradients: surefoot.guarding.clipping.Gradients) -> object:
            return surefoot.guarding.clipping.Cut(2.0)

        def state_dict(self) -> dict[str, object]:
            return {}

        def load_state_dict(self, state: object) -> None: ...

    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    clip: Clipping = Halving()  # type: ignore[assignment]
    surefoot.guard(optimizer, clip=clip, skip=False)
    weight.grad = torch.tensor([4.0, 6.0])
    optimizer.step()
    assert weight.tolist() == [-2.0, -3.0]


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="one of norm, value, parameter_norm, agc"):
        surefoot.guard(torch.optim.SGD(weights(), lr=0.1), clip="clamp", skip=False)
