"""The curvature against Hessians in closed form or made in full, and the bound by training."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from check_fixture import digits, mlp, same
from surefoot.probes.curvature import curvature

EIGENVALUES = [-3.0, 0.5, 1.0, 2.0, 7.0]


class Quadratic(nn.Module):
    """w' H w / 2 with a full H of known eigenvalues, in double."""

    def __init__(self, eigenvalues: list[float]) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        n = len(eigenvalues)
        q, _ = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))
        self.h = q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T
        self.w = nn.Parameter(torch.randn(n, generator=g, dtype=torch.float64))

    def loss(self) -> torch.Tensor:
        return self.w @ self.h @ self.w / 2


def steady(model: Quadratic, optimizer: torch.optim.Optimizer, steps: int = 400) -> bool:
    """Whether training stays bounded: what the bound promises."""
    start = float(model.w.detach().norm())
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss().backward()
        optimizer.step()
        if float(model.w.detach().norm()) > 10 * start:
            return False
    return True


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 2.0),
        ({"momentum": 0.9}, 3.8),
        ({"momentum": 0.9, "nesterov": True}, 3.8 / 2.8),
        ({"momentum": 0.5, "dampening": 0.5}, 3.0 / 0.5),
        ({"weight_decay": 1.0}, 2.0 * 7 / 8),  # decay bends every direction by one more
    ],
)
def test_the_bound_is_where_training_begins_to_diverge(
    settings: dict[str, float], factor: float
) -> None:
    definite = [0.5, 1.0, 2.0, 7.0]
    model = Quadratic(definite)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, **settings)  # type: ignore[arg-type]
    seen = curvature(model, optimizer, model.loss)
    assert seen.exact and seen.products <= len(definite) + 1
    assert seen.bound == pytest.approx(factor / 7, rel=1e-9)
    for share, bounded in ((0.97, True), (1.03, False)):
        again = Quadratic(definite)
        made = torch.optim.SGD(again.parameters(), lr=share * seen.bound, **settings)  # type: ignore[arg-type]
        assert steady(again, made) is bounded


def test_the_direction_is_that_of_the_gradient() -> None:
    model = Quadratic(EIGENVALUES)
    seen = curvature(model, torch.optim.SGD(model.parameters(), lr=0.01), model.loss)
    g = (model.h @ model.w).detach()
    assert seen.along == pytest.approx(float(g @ model.h @ g / (g @ g)), rel=1e-12)
    assert seen.value == pytest.approx(7.0, rel=1e-9) and seen.along <= seen.value


def test_climbing_turns_the_sign() -> None:
    model = Quadratic(EIGENVALUES)
    climbing = torch.optim.SGD(model.parameters(), lr=0.01, maximize=True)
    assert curvature(model, climbing, model.loss).value == pytest.approx(3.0, rel=1e-9)


def test_nothing_bounds_a_rate_where_the_loss_bends_downwards() -> None:
    model = Quadratic([-2.0, -1.0])
    seen = curvature(model, torch.optim.SGD(model.parameters(), lr=0.01), model.loss)
    assert seen.bound == math.inf and "nowhere" in seen.sentence


def network(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10)).to(dtype)
    x, y = digits(64)
    return model, lambda: F.cross_entropy(model(x.to(dtype)), y)


def full(model: nn.Module, scale: torch.Tensor | None = None) -> torch.Tensor:
    """The eigenvalues of the Hessian of `network`, made whole; of D^1/2 H D^1/2 with a scale D."""
    x, y = digits(64)
    x = x.to(next(model.parameters()).dtype)
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(w: torch.Tensor) -> torch.Tensor:
        parts = w.split([s.numel() for s in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, weights, (x,)), y)

    h = hessian(loss, flat)
    assert isinstance(h, torch.Tensor)
    if scale is not None:
        h = scale.sqrt()[:, None] * h * scale.sqrt()
    return torch.linalg.eigvalsh(h)


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian() -> None:
    model, loss = network()
    seen = curvature(model, torch.optim.SGD(model.parameters(), lr=0.1), loss)
    assert seen.exact and seen.value == pytest.approx(float(full(model)[-1]), rel=1e-4)


@pytest.mark.parametrize("updates", [0, 5])
def test_adam_bends_it_by_its_second_moments(updates: int) -> None:
    model, loss = network()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-3)
    for _ in range(updates):
        adam.zero_grad()
        loss().backward()
        adam.step()
    squares = [g.square() for g in torch.autograd.grad(loss(), list(model.parameters()))]
    if updates:
        squares = [adam.state[p]["exp_avg_sq"] / (1 - 0.999**5) for p in model.parameters()]
    scale = 1 / (torch.cat([s.flatten() for s in squares]).sqrt() + 1e-3)
    expected = float(full(model, scale)[-1])
    seen = curvature(model, adam, loss, products=60)
    assert seen.value == pytest.approx(expected, rel=1e-3)
    assert seen.bound == pytest.approx(38 / expected, rel=1e-3)


def test_the_bound_of_adam_is_where_it_begins_to_diverge() -> None:
    # Frozen second moments (beta2 = 1 - 1e-12) make of Adam a preconditioned heavy ball.
    def made(rate: float) -> tuple[Quadratic, torch.optim.Optimizer]:
        model = Quadratic([1.0, 2.0, 7.0])
        adam = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 1 - 1e-12))
        moments = torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)
        # exp_avg_sq is divided by 1 - beta2^step: chosen so that v-hat is `moments` late on.
        step = 1e6
        state = {
            "step": torch.tensor(step),
            "exp_avg": torch.zeros(3, dtype=torch.float64),
            "exp_avg_sq": moments * (1 - (1 - 1e-12) ** step),
        }
        adam.state[model.w] = state
        return model, adam

    model, adam = made(1e-3)
    seen = curvature(model, adam, model.loss)
    assert seen.bound is not None
    scale = torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64).rsqrt().sqrt()
    expected = float(torch.linalg.eigvalsh(scale[:, None] * model.h * scale)[-1])
    assert seen.bound == pytest.approx(38 / expected, rel=1e-4)
    for share, bounded in ((0.95, True), (1.05, False)):
        again, optimizer = made(share * seen.bound)
        assert steady(again, optimizer, 1000) is bounded


class _OnceOnly(torch.autograd.Function):
    """tanh, which cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, g: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return g * (1 - y * y)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-6), (torch.float32, 1e-2)])
def test_differences_serve_where_nothing_can_be_differentiated_twice(
    dtype: torch.dtype, rel: float
) -> None:
    model, _ = network(dtype)
    x, y = digits(64)
    x = x.to(dtype)

    def loss() -> torch.Tensor:
        first, _, last = model.children()
        return F.cross_entropy(last(_OnceOnly.apply(first(x))), y)

    before = [p.detach().clone() for p in model.parameters()]
    seen = curvature(model, torch.optim.SGD(model.parameters(), lr=0.1), loss)
    assert not seen.exact
    assert seen.value == pytest.approx(float(full(model)[-1]), rel=max(rel, 1e-4))
    assert same(before, list(model.parameters()))


def test_attention_has_a_curvature() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
    x = torch.randn(8, 5, 16)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = curvature(model, sgd, lambda: model(x)[..., 0].square().mean())
    assert (
        math.isfinite(seen.value) and seen.value > 0 and seen.bound == pytest.approx(2 / seen.value)
    )


def test_beyond_the_bound_is_not_called_divergence() -> None:
    model = Quadratic([1.0, 7.0])
    words = curvature(model, torch.optim.SGD(model.parameters(), lr=1.0), model.loss).sentence
    assert "that is no divergence" in words
    words = curvature(model, torch.optim.SGD(model.parameters(), lr=0.1), model.loss).sentence
    assert "the rate is 0.1." in words and "divergence" not in words


def test_a_rule_that_is_not_known_has_no_bound() -> None:
    model = Quadratic([1.0, 7.0])
    seen = curvature(model, torch.optim.Adagrad(model.parameters(), lr=0.1), model.loss)
    assert seen.bound is None and "no bound" in seen.sentence


def test_a_loss_that_is_not_finite_has_no_curvature() -> None:
    model = Quadratic([1.0, 7.0])
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = curvature(model, sgd, lambda: model.loss() * math.nan)
    assert math.isnan(seen.value) and seen.bound is None and "no value" in seen.sentence


def test_a_linear_loss_does_not_bend() -> None:
    model = Quadratic([1.0])
    seen = curvature(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda: model.w.sum())
    assert seen.value == 0.0 and seen.bound == math.inf


def test_everything_is_as_it_was() -> None:
    model = mlp(3, norm=True)
    x, y = digits(64)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first = curvature(model, adam, lambda: F.cross_entropy(model(x), y))
    second = curvature(model, adam, lambda: F.cross_entropy(model(x), y))
    assert first == second and first.value > 0
    assert same(before, dict(model.state_dict())) and not adam.state
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
