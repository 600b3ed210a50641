"""Each quantity against an oracle of its own: float64, a closed form, or a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surefoot
from surefoot.kernels import make_pass
from surefoot.layers import build_table
from surefoot.signals import QUANTITIES, Axis, Step
from surefoot.signals.inputs import INPUT
from surefoot.signals.learning_rates import LEARNING_RATE
from surefoot.signals.loss import anatomy
from surefoot.signals.second_moment import second_moments
from surefoot.signals.updates import sample_weights, update_ratios
from surefoot.watching.ledger import Ledger


def best_constant(loss, start: torch.Tensor) -> float:
    """The lowest value of a convex loss over constants, by Newton-like descent in float64."""
    constant = start.double().requires_grad_()
    optimizer = torch.optim.LBFGS([constant], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(constant)
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss(constant).detach())


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=lambda q: q.name)
def test_a_quantity_declares_itself(quantity):
    for text in (quantity.unit, quantity.formula, quantity.cost, quantity.source):
        assert len(text) > 0
    assert len(set(quantity.statistics)) == len(quantity.statistics)


def test_the_record_gets_the_columns_that_each_quantity_declares():
    declared = {}

    class Sink:
        def declare(self, training, layers, families):
            declared.update(families)

    table, _, tensors = build_table([nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))])
    counts = {Axis.GROUP: 2, Axis.PARAMETER: len(tensors), Axis.BLOCK: 5}
    Ledger(0, table, counts, Sink())  # type: ignore[arg-type]
    assert declared == {
        "loss": 1,
        "learning_rate": 2,
        "input": 3,
        "gradient": 20,
        "gradient_magnitude": 104,
        "loss_scaling": 2,
        "update_ratio": 4,
        "unmoved": 4,
        "second_moment": 8,
        "weight": 4,
        "block_scale": 10,
    }


def test_a_row_is_filled_to_its_last_column():
    gradients, inputs = np.arange(20.0).reshape(4, 5), np.ones((2, 5))
    counts = {Axis.GROUP: 2, Axis.PARAMETER: 4}
    for quantity in QUANTITIES.values():
        if quantity.measure is not None:
            row = np.full(quantity.columns(counts), np.nan)
            step = Step(gradients, inputs, 12, 0.5, [{"lr": 0.1}, {"lr": 0.2}], scale=2.0)
            quantity.measure(step, row)
            assert np.isfinite(row).all(), quantity.name


def test_the_input_is_measured_over_all_its_tensors():
    tensors = [torch.randn(5, 3), torch.randn(40), torch.zeros(0)]
    whole = torch.cat([t.flatten() for t in tensors]).double()
    out, rows = np.empty(3), np.empty((3, 5))
    measure = make_pass(3)
    measure(tensors, rows)
    INPUT.measure(Step(np.empty((0, 5)), rows, len(whole)), out)
    assert out[0] == pytest.approx(float(whole.square().mean().sqrt()), rel=1e-6)
    assert out[1] == float(whole.abs().max())
    assert out[2] == 0
    tensors[1][7] = math.inf
    measure(tensors, rows)
    INPUT.measure(Step(np.empty((0, 5)), rows, len(whole)), out)
    assert out[2] == 1
    INPUT.measure(Step(np.empty((0, 5)), rows[:0]), out)
    assert np.isnan(out).all()


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_the_update_ratio_is_what_the_optimizer_did(make):
    torch.manual_seed(0)
    parameters = [torch.randn(70, 50), torch.randn(300, 200), torch.zeros(5), torch.randn(())]
    parameters = [p.requires_grad_() for p in parameters]
    optimizer = make(parameters, lr=0.01)
    for p in parameters:
        p.grad = torch.randn_like(p)
    before = [p.detach().double().clone() for p in parameters]
    samples, out = sample_weights(parameters), np.empty(4)
    optimizer.step()
    update_ratios(samples, sample_weights(parameters), out)
    for i, (p, b) in enumerate(zip(parameters, before, strict=True)):
        if float(b.norm()) == 0:
            assert math.isnan(out[i])
            continue
        exact = float((p.detach().double() - b).norm() / b.norm())
        # The large tensor is sampled: 0.6 % is the sample's own standard error.
        assert out[i] == pytest.approx(exact, rel=1e-5 if p.numel() <= 16384 else 0.03)


def test_a_lost_parameter_has_an_infinite_update():
    p = torch.ones(3, requires_grad=True)
    samples, out = sample_weights([p]), np.empty(1)
    with torch.no_grad():
        p[1] = math.nan
    update_ratios(samples, sample_weights([p]), out)
    assert out[0] == math.inf


def test_learning_rates_are_those_of_the_groups():
    nothing, out = np.empty((0, 5)), np.empty(4)
    LEARNING_RATE.measure(
        Step(nothing, nothing, groups=[{"lr": 0.1}, {"lr": torch.tensor(0.25)}, {}]), out
    )
    np.testing.assert_allclose(out, [0.1, 0.25, np.nan, np.nan])


@pytest.mark.parametrize("scale", [1.0, 1e-8, 128.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_read_from_its_graph(scale, reduction):
    torch.manual_seed(0)
    target = torch.randint(0, 4, (2000,)) ** 2 % 7
    target[::10] = -100
    hidden = torch.randn(2000, 7, requires_grad=True)
    found = anatomy(scale * F.cross_entropy(hidden, target, reduction=reduction))
    exact = best_constant(
        lambda c: F.cross_entropy(c.expand(2000, 7), target, reduction=reduction), torch.zeros(7)
    )
    count = 1800 if reduction == "sum" else 1
    assert found.kind == "cross_entropy"
    assert found.multiplier == pytest.approx(scale * count)
    # The estimate adds the entropy that a finite batch hides: (classes - 1) / (2 N).
    assert found.trivial == pytest.approx(scale * exact, rel=3e-3)


def test_mean_squared_error_and_binary_cross_entropy():
    torch.manual_seed(0)
    target = torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.1]) + 7
    found = anatomy(F.mse_loss(torch.zeros(500, 3, requires_grad=True) + 1, target))
    exact = best_constant(lambda c: F.mse_loss(c.expand(500, 3), target.double()), torch.zeros(3))
    assert (found.kind, found.multiplier) == ("mse", 1.0)
    assert found.trivial == pytest.approx(exact, rel=3e-3)
    bits = (torch.rand(800, 2) < torch.tensor([0.1, 0.7])).float()
    logits = torch.zeros(800, 2, requires_grad=True)
    found = anatomy(F.binary_cross_entropy_with_logits(logits * 1, bits) / 4)
    exact = best_constant(
        lambda c: F.binary_cross_entropy_with_logits(c.expand(800, 2), bits.double()),
        torch.zeros(2),
    )
    assert found.trivial == pytest.approx(exact / 4, rel=1e-4)
    assert found.multiplier == pytest.approx(0.25)


def test_what_cannot_be_read_is_not_guessed():
    x = torch.randn(8, 3, requires_grad=True)
    target = torch.randint(0, 3, (8,))
    assert anatomy((x * 2).square().mean()).kind == "unknown"
    both = F.cross_entropy(x * 1, target) + (x * 2).square().mean()
    assert (anatomy(both).kind, anatomy(both).trivial) == ("composite", None)


def test_a_sum_of_known_losses_has_the_sum_of_their_constants():
    x, target = torch.randn(64, 3, requires_grad=True), torch.randint(0, 3, (64,))
    values = torch.randn(64, 3)
    alone = [anatomy(F.cross_entropy(x * 1, target)), anatomy(F.mse_loss(x * 1, values))]
    first, second = (float(a.trivial or 0) for a in alone)
    both = anatomy(0.5 * F.cross_entropy(x * 1, target) + 3 * F.mse_loss(x * 1, values))
    assert both.kind == "composite" and both.trivial == pytest.approx(0.5 * first + 3 * second)
    # A weight that is learned, or a logarithm, makes something else of it.
    weight = torch.ones((), requires_grad=True)
    for other in (
        weight.exp() * F.cross_entropy(x * 1, target) + F.mse_loss(x * 1, values),
        (F.cross_entropy(x * 1, target) + F.mse_loss(x * 1, values)).log(),
    ):
        assert anatomy(other).trivial is None
    penalised = F.cross_entropy(x * 1, target) + x.square().sum()
    assert anatomy(penalised).kind == "composite"
    biased = F.cross_entropy((x.unsqueeze(0) @ torch.eye(3)).squeeze(0) + torch.ones(3), target)
    assert anatomy(biased).kind == "cross_entropy"


def test_bad_targets_are_counted_and_the_graph_survives():
    x = torch.randn(8, 1, requires_grad=True)
    target = torch.zeros(8, 1)
    target[2], target[5] = math.nan, math.inf
    loss = F.mse_loss(x * 1, target)
    assert anatomy(loss).target_nonfinite == 2
    loss.backward()
    assert x.grad is not None


def _each(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, y, reduction="none")


@pytest.mark.parametrize(
    ("reduce", "factor", "summed"),
    [
        (lambda e, m: e.mean(), 1, False),
        (lambda e, m: e.view(3, 4).mean(-1).mean(), 1, False),
        (lambda e, m: e.sum() / 12, 1, True),
        (lambda e, m: (e * m).sum() / m.sum(), 1, True),
        (lambda e, m: (m * e).sum() / m.sum(), 1, True),
        (lambda e, m: e.view(3, 4).sum(-1).mean(), 4, True),
        (lambda e, m: (e.view(3, 4).sum(1) * torch.tensor([1.0, 2, 3])).mean(), 8, True),
        (lambda e, m: torch.tensor(3.0) * e.mean(), 3, False),
    ],
    ids=["mean", "groups", "sum/N", "masked", "masked-reversed", "rows", "weighted", "constant"],
)
def test_losses_reduced_by_hand_have_the_multiplier_of_their_weights(reduce, factor, summed):
    torch.manual_seed(0)
    x, y = torch.randn(12, 4, requires_grad=True), torch.randint(4, (12,))
    mask = (torch.rand(12) > 0.4).float()
    found = anatomy(reduce(_each(x * 1, y), mask))
    assert found.multiplier == pytest.approx(factor)
    assert found.summed is summed
    assert found.trivial == pytest.approx(factor * anatomy(F.cross_entropy(x * 1, y)).trivial)


def test_ignored_targets_and_nan_weights_are_counted():
    x, y = torch.randn(12, 4, requires_grad=True), torch.arange(12) % 4
    y[:3] = -100
    assert anatomy(_each(x * 1, y).mean()).multiplier == pytest.approx(9 / 12)
    weights = torch.ones(12)
    weights[5] = math.nan
    assert anatomy((_each(x * 1, y) * weights).sum()).target_nonfinite == 1


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_rms_of_a_gradient_that_jumps_follows_the_closed_form(decay):
    """After n steps of 1 and one of j, v is the mean that Adam's recursion gives in closed form."""
    p = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    adam = torch.optim.Adam([p], betas=(0.9, decay), eps=1e-12)
    for _ in range(7):
        p.grad = torch.ones_like(p)
        adam.step()
    for jump in (100.0, 0.01):
        p.grad = torch.full_like(p, jump)
        v = (decay * (1 - decay**7) + (1 - decay) * jump**2) / (1 - decay**8)
        state = {k: x.clone() for k, x in adam.state[p].items()}
        found = second_moments(adam, [p], np.empty((1, 2)))
        assert found[0] == pytest.approx([jump / math.sqrt(v), 0.0])
        assert all(torch.equal(x, adam.state[p][k]) for k, x in state.items())


def test_amsgrad_divides_by_the_largest_mean_so_far():
    p = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    adam = torch.optim.Adam([p], betas=(0.9, 0.5), eps=1e-12, amsgrad=True)
    for size in (100.0, 1.0, 1.0):
        p.grad = torch.full_like(p, size)
        adam.step()
    p.grad = torch.ones_like(p)
    found = second_moments(adam, [p], np.empty((1, 2)))
    # The mean after the first step, 0.5 * 100^2, is the largest; the fourth step corrects it.
    assert found[0, 0] == pytest.approx(1 / math.sqrt(0.5 * 1e4 / (1 - 0.5**4)))
    before = p.detach().clone()
    moment = adam.state[p]["exp_avg"].clone()
    adam.step()  # the step itself is the oracle: lr m / root
    root = (0.9 * moment + 0.1) / (1 - 0.9**4) * 1e-3 / (before - p.detach())
    assert float(1 / root.mean()) == pytest.approx(found[0, 0], rel=1e-6)


def test_where_eps_is_larger_than_the_root_the_share_says_so():
    p = nn.Parameter(torch.zeros(2, 2))
    frozen = nn.Parameter(torch.zeros(3, 1))
    adam = torch.optim.AdamW([p, frozen], eps=0.5)
    for _ in range(3):
        p.grad = torch.tensor([[1.0, 0.1], [0.1, 0.0]])
        adam.step()
    found = second_moments(adam, [p, frozen], np.empty((2, 2)))
    # of three elements in use two lie below eps; g^2 / max(v, eps^2): 1, 0.04, 0.04, 0
    assert found[0] == pytest.approx([math.sqrt(1.08 / 4), 2 / 3], rel=1e-6)
    assert np.isnan(found[1]).all()
    assert second_moments(torch.optim.SGD([p], lr=0.1), [p], np.empty((1, 2))) is None


def test_a_sample_of_a_large_matrix_tells_its_rms():
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(300, 70))
    adam = torch.optim.Adam([p], betas=(0.9, 0.99))
    for _ in range(20):
        p.grad = torch.randn_like(p)
        adam.step()
    p.grad = 3 * torch.randn_like(p)
    v = (0.99 * adam.state[p]["exp_avg_sq"].double() + 0.01 * p.grad.double() ** 2) / (1 - 0.99**21)
    whole = float((p.grad.double() ** 2 / v).mean().sqrt())
    found = second_moments(adam, [p], np.empty((1, 2)))
    assert found[0, 0] == pytest.approx(whole, rel=0.12)  # four times 1/sqrt(2 * 512)


def test_a_state_that_cannot_be_read_is_left_alone():
    class Packed(torch.Tensor):
        """A stand-in for a state in eight bits."""

        def view(self, *_: object) -> torch.Tensor:
            raise NotImplementedError

    p = nn.Parameter(torch.zeros(2, 2))
    adam = torch.optim.Adam([p])
    p.grad = torch.ones(2, 2)
    adam.step()
    adam.state[p]["exp_avg_sq"] = adam.state[p]["exp_avg_sq"].as_subclass(Packed)
    assert second_moments(adam, [p], np.empty((1, 2))) is None
    adam.state[p]["exp_avg_sq"] = torch.ones(2)  # factored, as in Adafactor
    assert second_moments(adam, [p], np.empty((1, 2))) is None


@pytest.mark.parametrize("scaler", [False, True])
def test_octaves_of_the_gradients_that_the_optimizer_uses(scaler):
    """Under a scaler, whose factor a fused optimizer leaves on the gradients, of the true ones."""
    torch.manual_seed(0)
    layer, x = nn.Linear(50, 30), torch.randn(16, 50)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, fused=scaler)
    grad = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaler)
    with surefoot.watch(layer, optimizer) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            loss = layer(x).square().mean()
            grad.scale(loss).backward()
            grad.step(optimizer)
            grad.update()
    rows = watch._session.trainings[0].case().series["gradient_magnitude"].last
    exact = torch.autograd.grad(layer(x).square().mean(), layer.weight)[0].flatten().tolist()
    octaves = [math.frexp(g)[1] - 1 for g in exact]
    expected = [sum(max(octaves) - o == k for o in octaves) / len(octaves) for k in range(24)]
    for row in rows:
        assert row[0] == max(octaves)
        np.testing.assert_allclose(row[1:25], expected, atol=1e-6)
