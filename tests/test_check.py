"""`surefoot check`: the verdict before training, its numbers against theory, and its innocence."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import surefoot
from check_fixture import CE, digits, mlp, same
from surefoot.findings import Cause, Check, Pathology, Severity


def gauge(check: Check, words: str) -> Any:
    (found,) = [e.value for e in check.gauges if e.quantity.strip().startswith(words)]
    return found


HE = math.sqrt(2)
FAULTY = [
    ("sigmoid", lambda: mlp(8, nn.Sigmoid), None, "vanishing", "saturating_activation"),
    ("small", lambda: mlp(20, gain=0.7), None, "vanishing", "weights_too_small"),
    ("large", lambda: mlp(15, gain=3 * HE), None, "exploding", "weights_too_large"),
    ("bn", lambda: mlp(50, norm=True), None, "exploding", "normalization_without_skip"),
    ("collapsed", lambda: mlp(50, gain=HE), None, "collapsed", "depth_without_skip"),
    ("sgd", lambda: mlp(4, gain=HE), ("SGD", 10.0), "oscillating", "learning_rate_too_high"),
    ("adam", lambda: mlp(4, gain=HE), ("Adam", 3.0), "oscillating", "learning_rate_too_high"),
]


@pytest.mark.parametrize(("name", "make", "optimizer", "pathology", "cause"), FAULTY)
def test_a_fault_is_named_before_training(
    name: str, make: Any, optimizer: tuple[str, float] | None, pathology: str, cause: str
) -> None:
    model = make()
    made = None
    if optimizer is not None:
        made = getattr(torch.optim, optimizer[0])(model.parameters(), lr=optimizer[1])
    result = surefoot.check(model, digits(), CE(), made)
    assert result.root is not None, result
    assert (result.root.pathology, result.root.cause) == (Pathology(pathology), Cause(cause))
    assert result.root.severity is Severity.HARMFUL
    assert result.passes <= 8


def test_the_rules_of_a_check_fire_and_stay_silent() -> None:
    """SF107 and SF305, which a run does not hear."""
    shattered = surefoot.check(mlp(50, norm=True), digits(), CE())
    assert "SF107" in {f.rule for f in shattered.findings if f.severity is Severity.HARMFUL}
    assert gauge(shattered, "gradient coherence") < 0.2
    # Along the depth it is lost on the way from the output to the input.
    curve = [row.coherence for row in shattered.layers if row.coherence is not None]
    assert len(curve) > 10
    assert curve[0] < 0.2
    assert max(curve) > curve[0] + 0.2
    model = mlp(4, gain=HE)
    long = surefoot.check(model, digits(), CE(), torch.optim.SGD(model.parameters(), lr=10.0))
    assert [f.rule for f in long.findings] == ["SF305"]
    # A plain network with a correct initialisation collapses and does not shatter.
    collapsed = surefoot.check(mlp(50, gain=HE), digits(), CE())
    assert "SF107" not in {f.rule for f in collapsed.findings}
    assert gauge(collapsed, "gradient coherence") > 0.8


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Conv(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(-1, 1, 8, 8))


HEALTHY = [
    (lambda: mlp(5, gain=HE), lambda p: torch.optim.Adam(p, lr=1e-3)),
    (lambda: mlp(5, gain=HE), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    (lambda: mlp(3, nn.Tanh), lambda p: torch.optim.AdamW(p, lr=3e-3)),
    (lambda: mlp(6, norm=True), lambda p: torch.optim.SGD(p, lr=0.1)),
    (lambda: mlp(1), lambda p: torch.optim.RMSprop(p, lr=1e-3)),
    (
        lambda: nn.Sequential(*(Block(64) for _ in range(20)), nn.LayerNorm(64), nn.Linear(64, 10)),
        lambda p: torch.optim.AdamW(p, lr=1e-3),
    ),
    (
        lambda: Conv(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
                     nn.Linear(512, 10)),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "optimizer"), HEALTHY)
def test_a_sound_network_is_healthy(make: Any, optimizer: Any) -> None:
    model = make()
    result = surefoot.check(model, digits(), CE(), optimizer(model.parameters()))
    assert str(result.verdict) == "healthy", result
    assert not result.findings
    assert result.passes <= 8


def test_growth_agrees_with_the_mean_field_theory() -> None:
    """chi_1 of tanh at sigma_w = 2.5, sigma_b = 0 by an integral of its own, and ReLU exactly."""
    z, w = np.polynomial.hermite_e.hermegauss(201)
    w = w / w.sum()
    q = 1.0
    for _ in range(500):
        q = 6.25 * float(w @ np.tanh(math.sqrt(q) * z) ** 2)
    chi = 6.25 * float(w @ (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2)
    seen = surefoot.check(mlp(12, nn.Tanh, 2.5, width=512), digits(), CE())
    inner = [row.gradient_expected for row in seen.layers[4:-1]]
    assert np.median(inner) == pytest.approx(0.5 * math.log10(chi), abs=0.01)
    measured = [row.gradient_growth for row in seen.layers[4:-1]]
    assert np.median(measured) == pytest.approx(0.5 * math.log10(chi), abs=0.03)
    relu = surefoot.check(mlp(10, nn.ReLU, 2.0, width=512), digits(), CE())
    for row in relu.layers[:-1]:
        assert row.gradient_expected == pytest.approx(0.5 * math.log10(2), abs=0.02)
        assert row.signal_expected == pytest.approx(0.5 * math.log10(2), abs=0.02)


def test_the_scales_along_the_depth_are_those_of_autograd() -> None:
    model, (x, y) = mlp(6, gain=HE).double(), digits()
    x = x.double()
    seen = surefoot.check(model, (x, y), CE())
    outputs, at = [], x
    for layer in model:
        at = layer(at)
        if isinstance(layer, nn.Linear):
            outputs.append(at)
    gradients = torch.autograd.grad(CE()(at, y), outputs)
    norms = [math.log10(float(g.norm())) for g in gradients]
    for row, z, n in zip(seen.layers, outputs, norms, strict=False):
        assert row.signal == pytest.approx(float(z.detach().square().mean().sqrt()), rel=1e-9)
        assert row.gradient - seen.layers[0].gradient == pytest.approx(n - norms[0], abs=1e-9)
    assert seen.gauges[0].value == pytest.approx(float(CE()(at, y).detach()), rel=1e-12)


def test_curvature_and_the_kept_decrease_on_a_quadratic() -> None:
    """0.5 w'Hw with H = diag(4, 1): along u = -lr g the curvature is lr g'Hg / (2 g'g)."""

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[1.0, 2.0]], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * (self.w.square() * x).sum() * torch.ones(1, dtype=torch.float64)

    model, h = Quadratic(), torch.tensor([4.0, 1.0], dtype=torch.float64)
    lr = 0.1
    seen = surefoot.check(
        model, (h, h), lambda out, _: out.sum(), torch.optim.SGD(model.parameters(), lr)
    )
    g = h * model.w.detach()[0]
    kappa = float(lr * (g * h * g).sum() / (2 * (g * g).sum()))
    assert gauge(seen, "curvature") == pytest.approx(kappa, rel=1e-9)
    assert gauge(seen, "decrease kept, a tenth") == pytest.approx(1 - 0.1 * kappa, rel=1e-6)
    assert gauge(seen, "decrease kept, the whole") == pytest.approx(1 - kappa, rel=1e-6)


class Noisy(nn.Module):
    """Dropout, batch norm, a counter and a user's hook: everything that a forward may change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(64, 10)
        self.calls = 0
        self.history: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.history.append(len(x))
        return self.head(self.body(x) + np.random.rand())


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_nothing_of_the_users_is_changed(kind: str) -> None:
    model, (x, y) = Noisy(), digits()
    heard: list[int] = []
    model.head.register_forward_hook(lambda *_: heard.append(1))
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):  # so that the optimizer has state and the parameters gradients
        optimizer.zero_grad()
        CE()(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    gradients = [p.grad.clone() for p in model.parameters()]
    memory = [p.data_ptr() for p in model.parameters()]
    calls, history, hooked = model.calls, list(model.history), len(heard)
    randoms = torch.get_rng_state(), np.random.get_state()[1].copy()

    result = surefoot.check(model, (x, y), CE(), optimizer)

    assert gauge(result, "update-to-weight") > 0
    after = model.state_dict(), optimizer.state_dict(), scheduler.state_dict()
    for old, new in zip(before, after, strict=True):
        assert same(old, new)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == memory
    assert (model.calls, model.history, len(heard)) == (calls, history, hooked)
    assert torch.equal(torch.get_rng_state(), randoms[0])
    assert (np.random.get_state()[1] == randoms[1]).all()
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_it_leaves_a_watch_around_it_alone() -> None:
    model, (x, y) = mlp(4, gain=HE), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(3):
            surefoot.check(model, (x, y), CE(), optimizer)
            optimizer.zero_grad()
            CE()(model(x), y).backward()
            optimizer.step()
    assert watch.report().steps == 3
    assert not watch.findings


class Own(nn.Module):
    """A model that gives its own loss and takes keywords, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(pixels)
        return {"loss": CE()(logits, labels), "logits": logits}


def test_every_form_of_batch() -> None:
    x, y = digits()
    keywords = surefoot.check(Own(), {"pixels": x, "labels": y})
    assert str(keywords.verdict) == "healthy"
    torch.manual_seed(0)
    auto = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
    assert str(surefoot.check(auto, x, nn.MSELoss()).verdict) == "healthy"

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(2)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.net(a + b)

    assert str(surefoot.check(Two(), ((x, x), y), CE()).verdict) == "healthy"


def test_what_cannot_be_measured_is_said() -> None:
    model, (x, y) = mlp(3), digits(16)
    model.eval()
    lbfgs = torch.optim.LBFGS(model.parameters())
    result = surefoot.check(model, (x, y), CE(), lbfgs)
    assert gauge(result, "gradient coherence") == "not measured"
    assert gauge(result, "first updates") == "not rehearsed"
    assert gauge(result, "mode of the model") == "evaluation"
    assert str(result.verdict) == "healthy"


def test_a_nan_in_the_batch_and_one_made_by_the_model() -> None:
    x, y = digits()
    bad = x.clone()
    bad[3, 5] = math.nan
    found = surefoot.check(mlp(3), (bad, y), CE()).root
    assert found is not None
    assert found.cause is Cause.NONFINITE_INPUT

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x).sqrt() + x

    model = nn.Sequential(nn.Linear(64, 64), Root(), nn.Linear(64, 10))
    found = surefoot.check(model, (x, y), CE()).root
    assert found is not None
    assert (found.cause, found.layer) == (Cause.UNDEFINED_OPERATION, "1")


def zeroed(*which: int) -> nn.Module:
    model = mlp(3)
    for k in which:
        nn.init.zeros_(model[k].weight)
        nn.init.zeros_(model[k].bias)
    return model


def test_zero_weights_behind_one_another_let_nothing_through() -> None:
    found = surefoot.check(zeroed(0, 2, 4, 6), digits(), CE()).root
    assert found is not None
    assert (found.cause, found.layer) == (Cause.WEIGHTS_TOO_SMALL, "0")
    head_alone = surefoot.check(zeroed(6), digits(), CE())
    assert str(head_alone.verdict) == "healthy"


def test_a_recurrence_that_begins_at_zeros_is_not_dead() -> None:
    class Recurrence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.round = nn.Linear(8, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(len(x), 32)
            for row in x.reshape(-1, 8, 8).unbind(1):
                h = torch.relu(self.into(row) + self.round(h))
            return self.head(h)

    torch.manual_seed(0)
    assert str(surefoot.check(Recurrence(), digits(), CE()).verdict) == "healthy"


def test_branches_that_begin_at_zero_are_no_fault() -> None:
    """The last matrix of each branch is zero, as in LoRA: its own input begins without gradient."""

    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 4), nn.Linear(4, 64)
            nn.init.zeros_(self.b.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.base(x) + self.b(self.a(x)))

    torch.manual_seed(0)
    model = nn.Sequential(*(Adapter() for _ in range(4)), nn.Linear(64, 10))
    assert not surefoot.check(model, digits(), CE()).findings


def test_a_compiled_or_wrapped_model_is_looked_through() -> None:
    model = mlp(8, nn.Sigmoid)
    result = surefoot.check(nn.DataParallel(model), digits(), CE())
    assert result.root is not None
    assert result.root.layer == "12"


def test_no_module_takes_the_place_of_a_public_function() -> None:
    """Importing a submodule sets it as an attribute of its package, over what is loaded lazily."""
    import pkgutil

    modules = {m.name for m in pkgutil.iter_modules(surefoot.__path__)}
    assert not modules & set(surefoot.__all__)
