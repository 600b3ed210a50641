"""The range test against rates known in closed form, and on nets that train, or cannot."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from check_fixture import digits, mlp, same
from surefoot.probes.learning_rate import find_rate
from surefoot.probes.rate_verdict import RangeTest, Seen, judge

Loss = Callable[[int], torch.Tensor]
RATES = np.geomspace(1e-7, 10, 60)
GRID = RATES[1] / RATES[0]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr=0.1: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr=0.1: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "adamw": lambda p, lr=1e-3: torch.optim.AdamW(p, lr=lr),
}


class Quadratic(nn.Module):
    """w' H w / 2 with H of these eigenvalues, from where all directions cost the same."""

    def __init__(self, *eigenvalues: float) -> None:
        super().__init__()
        self.h = torch.tensor(eigenvalues, dtype=torch.float64)
        self.w = nn.Parameter(self.h.rsqrt())

    def loss(self, k: int = 0) -> torch.Tensor:
        return (self.h * self.w.square()).sum() / 2


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x.view(-1, 1, 8, 8))), 2)
        return self.head(self.drop(F.relu(self.second(x)).flatten(1)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.position = nn.Parameter(0.02 * torch.randn(8, 32))
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(x.view(-1, 8, 8)) + self.position).mean(1))


def perceptron() -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Linear(64, 64), nn.ReLU()]
        nn.init.kaiming_normal_(layers[2 * i].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(64, 10))


X, Y = digits(1024)


def batches(model: nn.Module, size: int = 64) -> Loss:
    def loss(k: int) -> torch.Tensor:
        rows = slice(k * size % 1024, k * size % 1024 + size)
        return F.cross_entropy(model(X[rows]), Y[rows])

    return loss


def ranged(model: nn.Module, optimizer: str, **options: float) -> RangeTest:
    made = OPTIMIZERS[optimizer](model.parameters())
    return find_rate(model, made, batches(model), **options)  # type: ignore[arg-type]


def trained(make: Callable[[], nn.Module], optimizer: str, rate: float, seed: int) -> float:
    """The loss over all data after 100 updates."""
    torch.manual_seed(seed)
    model = make()
    made, loss = OPTIMIZERS[optimizer](model.parameters(), lr=rate), batches(model)
    for k in range(100):
        made.zero_grad()
        value = loss(k)
        if not torch.isfinite(value):
            return math.inf
        value.backward()
        made.step()
    with torch.no_grad():
        end = float(F.cross_entropy(model(X), Y))
    return end if math.isfinite(end) else math.inf


# -- in closed form ------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1.0, 30.0, 4000.0])
def test_the_limit_of_gradient_descent_is_two_over_the_curvature(largest: float) -> None:
    model = Quadratic(largest)
    seen = find_rate(model, torch.optim.SGD(model.parameters(), lr=1.0), model.loss)
    assert seen.verdict == "usable"
    assert seen.limit is not None and seen.suggestion is not None
    # With one direction the loss falls below 2 / lambda and rises above it, whatever came before.
    assert seen.limit <= 2 / largest < seen.limit * GRID * 1.0001
    assert seen.suggestion <= seen.limit / 10


def test_the_limit_with_several_directions_is_within_two_steps_of_the_grid() -> None:
    model = Quadratic(8.0, 7.0, 5.0, 3.0)
    seen = find_rate(model, torch.optim.SGD(model.parameters(), lr=1.0), model.loss)
    assert seen.limit is not None
    assert GRID**-2 <= seen.limit / (2 / 8) <= GRID**2


def test_the_losses_are_those_of_a_run_by_hand() -> None:
    model = Quadratic(3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    seen = find_rate(model, optimizer, model.loss, steps=12, low=1e-3, high=0.1)
    w, v, expected = 3.0**-0.5, 0.0, []
    for rate in np.geomspace(1e-3, 0.1, 12):
        v = 0.5 * v + 3 * w
        w -= rate * v
        expected.append(1.5 * w * w)
    np.testing.assert_allclose(seen.losses, expected, rtol=1e-12)
    assert seen.limit == pytest.approx(0.1) and "all were stable" in seen.sentence


def test_groups_keep_the_ratio_of_their_rates() -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))])
    groups = [{"params": [model[0]], "lr": 0.01}, {"params": [model[1]], "lr": torch.tensor(0.001)}]
    optimizer = torch.optim.SGD(groups, lr=0.1)

    def loss(k: int) -> torch.Tensor:
        return model[0] + 100 * model[1]

    seen = find_rate(model, optimizer, loss, steps=4, low=1e-3, high=1e-2, hold=0)
    # -rate (1 * 1 + 0.1 * 100 * 100) an update
    moved = np.cumsum(np.geomspace(1e-3, 1e-2, 4)) * 1001
    np.testing.assert_allclose(seen.losses, 101 - moved, rtol=1e-4)
    assert float(groups[1]["lr"]) == pytest.approx(0.001)  # type: ignore[arg-type]


# -- curves made up ------------------------------------------------------------------------------


def test_the_steepest_descent_is_that_over_the_logarithm() -> None:
    # A step down around 1e-3 over log(rate): d loss / d rate is steepest far below, at the start.
    losses = 2 - np.tanh(np.log(RATES / 1e-3))
    seen = judge(Seen(RATES, losses, 3.0))
    assert seen.steepest == pytest.approx(1e-3, rel=GRID - 1)
    assert seen.suggestion == seen.steepest  # the limit is far above
    assert seen.limit == pytest.approx(10.0)


def test_a_single_spike_is_not_the_steepest_descent() -> None:
    losses = 2 - np.tanh(np.log(RATES / 1e-3))
    losses[10] += 2.0
    assert judge(Seen(RATES, losses, 3.0)).steepest == pytest.approx(1e-3, rel=GRID - 1)


def test_a_loss_that_turns_nan_after_falling_has_a_limit() -> None:
    losses = np.concatenate((np.linspace(2.3, 1.0, 40), [math.nan]))
    seen = judge(Seen(RATES[:41], losses, 2.3))
    assert seen.verdict == "usable" and seen.limit == RATES[39]


@pytest.mark.parametrize("end", [math.nan, math.inf, 1e9])
def test_a_loss_that_never_falls_before_it_is_lost_diverges(end: float) -> None:
    seen = judge(Seen(RATES[:31], np.concatenate((np.linspace(2.3, 4.0, 30), [end])), 2.3))
    assert seen.verdict == "diverges" and seen.suggestion is None
    assert seen.sentence.startswith("No learning rate will work")


def test_what_moves_less_than_the_noise_of_batches_is_flat() -> None:
    generator = np.random.default_rng(0)
    noise = 0.05 * generator.standard_normal(60)
    flat = judge(Seen(RATES, 2.3 + noise, 2.3, noise=None))
    assert flat.verdict == "flat" and flat.noise == pytest.approx(0.05, rel=0.5)
    falls = judge(Seen(RATES, 2.3 + noise - np.linspace(0, 2, 60), 2.3, noise=None))
    assert falls.verdict == "usable"


# -- nets that cannot train ----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_rate_works_for_a_vanished_net(optimizer: str) -> None:
    seen = ranged(mlp(30, nn.Sigmoid, width=16), optimizer, hold=20)
    assert seen.verdict == "flat" and seen.suggestion is None
    # Its loss does fall: to that of the best constant answer, log(10) for ten equal classes.
    assert seen.start - seen.losses.min() > 0.01 and seen.losses.min() > math.log(10) - 0.05
    assert "No learning rate will work" in seen.sentence and "one and the same" in seen.sentence


def test_nothing_moves_without_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)  # every unit is dead
    held = torch.optim.SGD(model[0].parameters(), lr=0.1)
    seen = find_rate(model, held, batches(model))
    assert seen.verdict == "flat" and "not one parameter" in seen.sentence
    stranger = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(stranger.parameters(), lr=0.1)
    assert find_rate(model, optimizer, batches(model)).verdict == "flat"
    assert all(p.grad is None for p in stranger.parameters())


def test_a_loss_that_is_not_finite_before_any_update() -> None:
    seen = ranged(mlp(60, gain=10.0), "sgd")
    assert seen.verdict == "nonfinite" and not len(seen.losses)
    assert "the loss is not finite" in seen.sentence


def test_a_gradient_that_is_not_finite_before_any_update() -> None:
    w = nn.Parameter(torch.zeros(()))
    model = nn.ParameterList([w])
    optimizer = torch.optim.SGD([w], lr=0.1)
    # 0 / 0 in backward
    seen = find_rate(model, optimizer, lambda k: model[0].square().sqrt() + 1)
    assert seen.verdict == "nonfinite" and "gradient" in seen.sentence


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_an_exploding_net_diverges_at_every_rate(optimizer: str) -> None:
    seen = ranged(mlp(100, gain=1.3 * math.sqrt(2)), optimizer)
    assert seen.verdict == "diverges" and math.isfinite(seen.start)


def test_a_bad_batch_is_no_matter_of_the_rate() -> None:
    torch.manual_seed(0)
    model = perceptron()
    good = batches(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = find_rate(model, optimizer, lambda k: good(k) * (math.nan if k == 7 else 1))
    assert seen.verdict == "usable" and seen.skipped == 1 and "one batch is" in seen.sentence


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_a_deep_net_of_batch_norm_without_skips_gets_no_rate(optimizer: str) -> None:
    model = mlp(100, gain=math.sqrt(2), norm=True, width=32)
    seen = ranged(model, optimizer, hold=40)
    # Its outputs scatter, and one of sixty losses may be low by chance.
    assert seen.verdict == "flat" and seen.losses.min() < seen.start - 0.1


# -- nets that train -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [perceptron, Convolutions, Transformer])
def test_the_suggestion_trains(make: Callable[[], nn.Module], optimizer: str, seed: int) -> None:
    torch.manual_seed(seed)
    seen = ranged(make(), optimizer)
    assert seen.verdict == "usable" and seen.suggestion is not None
    assert not seen.held and seen.gap is not None and seen.gap > 0.05
    at = trained(make, optimizer, seen.suggestion, seed)
    assert at < 1.9  # log(10) = 2.30 at chance
    assert at < trained(make, optimizer, seen.suggestion / 100, seed) - 0.25


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [perceptron, Convolutions, Transformer])
def test_the_suggestion_is_near_the_best(
    make: Callable[[], nn.Module], optimizer: str, seed: int
) -> None:
    torch.manual_seed(seed)
    seen = ranged(make(), optimizer)
    sweep = [10 ** (i / 2) for i in range(-9, 3)]
    best = min(sweep, key=lambda rate: trained(make, optimizer, rate, seed))
    assert seen.suggestion is not None
    assert best / 30 < seen.suggestion < best * 30


def test_a_plateau_is_waited_for() -> None:
    torch.manual_seed(0)
    model = mlp(8, nn.Sigmoid)  # passes for flat while the rate grows
    assert ranged(model, "adamw", hold=0).verdict == "flat"
    seen = ranged(model, "adamw")
    assert seen.verdict == "usable" and seen.held and seen.suggestion is not None
    assert seen.reached is not None and seen.reached < seen.start - 0.02
    assert "held for" in seen.sentence


# -- what it leaves alone ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: mlp(3, norm=True), Convolutions])
def test_everything_is_as_it_was(make: Callable[[], nn.Module]) -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    loss, calls = batches(model), []
    for k in range(3):
        optimizer.zero_grad()
        loss(k).backward()
        optimizer.step()
        scheduler.step()
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    grads = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    parameters = list(model.parameters())
    assert find_rate(model, optimizer, loss, steps=20).verdict == "usable"
    assert same(before, (model.state_dict(), optimizer.state_dict()))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in grads)
    assert all(p.grad is g for p, (g, _) in zip(parameters, grads, strict=True))
    assert torch.equal(draws[0], torch.get_rng_state()) and draws[1] == random.getstate()
    assert (draws[2] == np.random.get_state()[1]).all() and not calls  # type: ignore[index]


def test_it_says_the_same_twice() -> None:
    torch.manual_seed(0)
    model = Convolutions()  # with dropout
    first, second = ranged(model, "momentum"), ranged(model, "momentum")
    assert np.array_equal(first.losses, second.losses) and first.suggestion == second.suggestion


def test_a_loss_that_cannot_be_asked_for_twice() -> None:
    torch.manual_seed(0)
    model = perceptron()
    good, calls = batches(model, 128), iter(range(10_000))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = find_rate(model, optimizer, lambda k: good(next(calls)))
    assert seen.verdict == "usable" and seen.gap is None
    assert seen.suggestion is not None and 1e-3 < seen.suggestion < 0.5


def test_an_optimizer_that_wants_a_closure() -> None:
    model = Quadratic(2.0, 1.0)
    seen = find_rate(model, torch.optim.LBFGS(model.parameters(), lr=1.0), model.loss, steps=20)
    assert seen.verdict == "usable" and seen.losses.min() < 1e-6
    assert torch.equal(model.w, model.h.rsqrt())


@pytest.mark.parametrize("options", [{"low": 1.0, "high": 0.1}, {"low": 0.0}, {"steps": 1}])
def test_a_range_that_is_none_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < low < high"):
        ranged(perceptron(), "sgd", **options)


def test_a_loss_of_many_numbers_is_refused() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="one number"):
        find_rate(model, optimizer, lambda k: model(X[:4]))


def test_a_loss_made_without_the_model_is_refused() -> None:
    model = Quadratic(1.0)
    w, optimizer = model.w, torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="made by the model"):
        find_rate(model, optimizer, lambda k: w.square().sum())
