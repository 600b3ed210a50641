"""The probes against autograd, closed forms and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.diagnosis.profile import profile
from surefoot.layers import Kind, build_table
from surefoot.probes.blocks import choose_blocks
from surefoot.probes.flow import FlowProbe
from surefoot.probes.origin import undefined_in_loss
from surefoot.probes.recurrence import through_time
from surefoot.probes.replay import Replay, replay
from surefoot.probes.statistics import frozen_share, mean_cosine, recognise_activation
from surefoot.probes.tap import EntryTap
from surefoot.signals.criterion import criterion


def flow_of(model: nn.Module, x: torch.Tensor, cotangent: torch.Tensor | None = None):
    """(flow, table) of one forward and backward."""
    table, modules, _ = build_table([model])
    probe = FlowProbe(table, modules)
    probe.install()
    y = model(x)
    y.backward(torch.randn_like(y) if cotangent is None else cotangent)
    return probe.collect(0), table


def plain(depth: int, width: int, activation: nn.Module, gain: float, norm: bool = False):
    """A chain of `depth` bias-free layers with N(0, gain^2 / width) weights."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(linear.weight, std=gain / width**0.5)
        layers += [linear, nn.BatchNorm1d(width)] if norm else [linear]
        layers.append(activation)
    return nn.Sequential(*layers, nn.Linear(width, 4))


def test_gradients_at_modules_are_autograds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.ReLU(inplace=True))
    x = torch.randn(9, 5)
    z1 = F.linear(x.double(), model[0].weight.double(), model[0].bias.double())
    z1 = z1.detach().requires_grad_()
    a1 = torch.tanh(z1)
    z2 = F.linear(a1, model[2].weight.double(), model[2].bias.double())
    y = torch.relu(z2)
    v = torch.randn(9, 7)
    g1, ga, g2 = torch.autograd.grad(y, [z1, a1, z2], v.double())
    flow, table = flow_of(model, x, v)
    calls = {table.layers[c.layer].name: c for c in flow.calls}
    assert calls["0"].grad_output.norm == pytest.approx(float(g1.norm()), rel=1e-5)
    assert calls["1"].grad_output.norm == pytest.approx(float(ga.norm()), rel=1e-5)
    assert calls["2"].grad_output.norm == pytest.approx(float(g2.norm()), rel=1e-5)
    assert calls["2"].output.rms == pytest.approx(
        float(z2.detach().square().mean().sqrt()), rel=1e-5
    )


@pytest.mark.parametrize(
    ("activation", "gain", "norm", "squared"),
    [  # growth of the squared gradient norm a layer; Schoenholz 2017 and Yang 2019
        (nn.ReLU(), 2**0.5, False, 1.0),
        (nn.ReLU(), 3**0.5, False, 1.5),
        (nn.ReLU(), (1 / 3) ** 0.5, False, 1 / 6),  # torch's default initialisation
        (nn.Sigmoid(), 1.0, False, 0.0557),
        (nn.Sigmoid(), 4.0, False, 0.3989),
        (nn.ReLU(), 1.0, True, math.pi / (math.pi - 1)),  # Yang et al. 2019, whatever the gain
    ],
    ids=["he", "chi-1.5", "torch-default", "sigmoid-1", "sigmoid-4", "batch-norm"],
)
def test_the_profile_finds_the_growth_that_theory_gives(activation, gain, norm, squared):
    growth = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = plain(30, 512, activation, gain, norm)
        flow, table = flow_of(model, torch.randn(128, 512))
        seen = profile(flow, table)
        growth.append(10 ** (2 * seen.growth / (len(seen.stages) - 1)))
    assert np.mean(growth) == pytest.approx(squared, rel=0.05)


def test_the_parts_of_a_profile_add_up_to_the_whole():
    torch.manual_seed(0)
    flow, table = flow_of(plain(10, 64, nn.Tanh(), 1.3, norm=True), torch.randn(64, 64))
    seen = profile(flow, table)
    whole = seen.stages[0].gradient - seen.stages[-1].gradient
    assert seen.growth == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_lone_culprit_is_found_and_a_uniform_chain_has_none(factor):
    torch.manual_seed(1)
    model = plain(30, 128, nn.ReLU(), 2**0.5)
    flow, table = flow_of(model, torch.randn(64, 128))
    assert profile(flow, table).culprit() is None
    with torch.no_grad():
        model[2 * 20].weight.mul_(factor)
    flow, table = flow_of(model, torch.randn(64, 128))
    seen = profile(flow, table)
    gap, deviation = seen.culprit()
    assert table.layers[seen.stages[gap].weight_layer].name == "40"
    assert deviation == pytest.approx(math.log10(factor), abs=0.15)


class Residual(nn.Module):
    """x + f(x), the addition outside of every module."""

    def __init__(self, depth: int, skip: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.skip = skip
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 32] -> [B, 4]."""
        for layer in self.layers:
            x = x + F.relu(layer(x)) if self.skip else F.relu(layer(x))
        return self.head(x)


def test_skip_connections_are_seen_and_only_where_they_are():
    x = torch.randn(16, 32)
    with_skip, table = flow_of(Residual(8, True), x.requires_grad_())
    without, _ = flow_of(Residual(8, False), x)
    linear = [c for c in with_skip.calls if table.layers[c.layer].kind is Kind.LINEAR]
    assert sum(c.identity for c in linear) == 8
    assert not any(c.identity for c in without.calls)
    assert profile(with_skip, table).residual
    assert not profile(without, table).residual


@pytest.mark.parametrize(
    "function", [torch.relu, torch.tanh, torch.sigmoid, F.gelu, F.silu], ids=lambda f: f.__name__
)
def test_functional_activations_are_recognised(function):
    z = torch.randn(300)
    assert recognise_activation(z, function(z)) == function.__name__
    assert recognise_activation(z, z) is None
    assert recognise_activation(z, z + 1) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [torch.relu, torch.tanh])
def test_an_activation_is_recognised_across_dtypes(function, dtype):
    """As under autocast, where a layer ends in half precision and the next begins in float32."""
    z = torch.linspace(-3, 3, 64).to(dtype)
    assert recognise_activation(z, function(z).float()) == function.__name__
    assert recognise_activation(z.float(), function(z)) == function.__name__
    assert recognise_activation(z, z.float()) is None


def test_mean_cosine_and_frozen_share_against_plain_loops():
    torch.manual_seed(0)
    y = torch.randn(12, 5, 3) + 1
    flat = y.flatten(1).double()
    pairs = [
        float(F.cosine_similarity(flat[i], flat[j], dim=0))
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    assert mean_cosine(y) == pytest.approx(np.mean(pairs), abs=1e-9)
    assert mean_cosine(y[:3]) is None
    z = torch.randn(10, 40)
    z[:, :13] = -1
    assert frozen_share("relu", torch.relu(z)) == pytest.approx(13 / 40)
    assert frozen_share("gelu", z) is None
    maps = torch.randn(10, 4, 6, 6)
    maps[:, 2] = -1
    assert frozen_share("relu", torch.relu(maps)) == pytest.approx(1 / 4)


def test_through_time_equals_the_closed_form():
    rnn = nn.RNN(3, 4, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.1 * torch.eye(4))
        rnn.weight_ih_l0.fill_(1.0)
        rnn.bias_ih_l0.zero_()
        rnn.bias_hh_l0.zero_()
    logs = through_time(rnn, torch.rand(5, 30, 3) + 0.1)
    expected = [math.log10(1.1) * (29 - t) for t in range(29)]
    np.testing.assert_allclose(logs, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_stepping_by_hand_is_what_the_fused_module_computes(kind):
    from surefoot.probes.recurrence import _step

    torch.manual_seed(0)
    module = kind(3, 4, num_layers=2)
    x, state = torch.randn(7, 2, 3), None
    for t in range(7):
        state = _step(module, x[t], state)
    assert torch.allclose(module(x)[0][-1], state[0][-1], atol=1e-6)


class Noisy(nn.Module):
    """Dropout, batch norm, an in-place activation and a counter that forward advances."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.b, self.last, self.calls = nn.Linear(8, 3), last, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 6] -> [B, 3]."""
        self.calls += 1
        return self.last(self.b(self.drop(F.relu(self.norm(self.a(x)), inplace=True))))


def replayed(model: nn.Module, x: torch.Tensor) -> tuple[Replay | str, list]:
    """A step under an entry tap, and its replay; with the layer table."""
    table, modules, tensors = build_table([model])
    tap = EntryTap([model])
    model(x).sum().backward()
    tap.paused = True
    gradients = {id(p): p.grad for p in tensors if p.grad is not None}
    result = replay(0, tap.entries, table, modules, gradients)
    tap.remove()
    return result, table.layers


def test_a_replay_is_exact_and_leaves_no_trace():
    torch.manual_seed(0)
    model = Noisy(nn.Identity())
    x = torch.randn(16, 6)
    torch.manual_seed(5)
    model(x).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    state, calls = torch.get_rng_state(), model.calls
    model.zero_grad()
    for norm in (model.norm,):
        norm.reset_running_stats()
    torch.manual_seed(5)
    result, _ = replayed(model, x)
    assert isinstance(result, Replay)
    assert result.exact
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.calls == calls + 1


def test_a_changed_input_is_refused():
    model = Noisy(nn.Identity())
    x = torch.randn(16, 6)
    table, modules, _ = build_table([model])
    tap = EntryTap([model])
    model(x).sum().backward()
    x.mul_(2)
    tap.paused = True
    assert "changed in place" in replay(0, tap.entries, table, modules, {})
    tap.remove()


class Apply(nn.Module):
    """One function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "operation", "where"),
    [
        (lambda x: (x - 1e3).log(), "log", "forward"),
        (lambda x: 1 / (x - x), "division", "forward"),
        (lambda x: (x * 0).square().sqrt() + x, "sqrt", "backward"),
        (lambda x: torch.where(x > 1e6, (x * 0).sqrt(), x), "sqrt", "backward"),
        (lambda x: torch.full_like(x, -math.inf).softmax(-1) * x, "softmax", "forward"),
        (lambda x: (x + 1e3).exp(), "exp", "forward"),
    ],
    ids=["log", "division", "sqrt-slope", "where", "masked-row", "overflow"],
)
def test_the_operation_that_made_the_first_nan_is_named(function, operation, where):
    torch.manual_seed(0)
    result, layers = replayed(Noisy(Apply(function)), torch.randn(16, 6))
    origin = result.flow.origin
    assert (origin["where"], origin["operation"]) == (where, operation)
    assert layers[origin["layer"]].name == "last"


def test_a_mask_alone_is_no_origin():
    def attend(x: torch.Tensor) -> torch.Tensor:
        mask = torch.eye(x.shape[-1], dtype=torch.bool)[: x.shape[0] % 3 + 1].any(0)
        return x.masked_fill(mask, -math.inf).softmax(-1)

    result, _ = replayed(Noisy(Apply(attend)), torch.randn(16, 6))
    assert result.flow.origin is None


def test_half_precision_is_told_from_an_undefined_operation():
    half = Apply(lambda x: ((x.half() + 300) ** 2).float())
    result, _ = replayed(Noisy(half), torch.randn(16, 6))
    assert (result.flow.origin["dtype"], result.flow.origin["wider"]) == ("float16", True)
    result, _ = replayed(Noisy(Apply(lambda x: (-x.abs() - 1).log())), torch.randn(16, 6))
    assert result.flow.origin["wider"] is False


def test_the_loss_function_is_searched_too():
    p = torch.tensor([0.5, 0.0], requires_grad=True)
    assert "log" in undefined_in_loss(-(p * 1).log().mean())
    assert "zero" in undefined_in_loss((p * 1).sum() / (p * 0).sum())
    assert undefined_in_loss((p * 1).square().mean()) is None


def test_of_blocks_inside_blocks_the_outer_ones_are_the_trunk() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(Inner() for _ in range(3))

    table = build_table([nn.Sequential(*(Outer() for _ in range(4)))])[0]
    assert [table.layers[i].name for i in choose_blocks(table)] == ["0", "1", "2", "3"]


def test_rows_of_a_softmax_that_are_one_hot_on_every_sample_are_found_in_the_graph():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            return self.out(scores.softmax(-1))

    model = Attention()
    table, modules, _ = build_table([model], list(model.parameters()))
    scores = torch.zeros(8, 5, 4)
    scores[:, 0, 2] = 50.0  # this row picks one key on every sample
    scores[:4, 1, 3] = 50.0  # this one on half of them
    probe = FlowProbe(table, modules)
    probe.install()
    model(scores.requires_grad_()).sum().backward()
    call = probe.collect(0).calls[0]
    assert (call.activation, call.frozen) == ("softmax", pytest.approx(1 / 5))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda y: (y - y).square().mean().sqrt(), ("backward", "sqrt")),
        (lambda y: (y.exp() * 0).log().mean(), ("forward", "log")),
        (lambda y: (y * 0).sum() / (y.detach() * 0).sum(), ("forward", "division")),
    ],
)
def test_the_operation_of_the_loss_is_named(loss, words):
    model = nn.Linear(4, 3)
    table, modules, _ = build_table([model], list(model.parameters()))
    tap = EntryTap(modules)
    tap.marking = True
    value = loss(model(torch.randn(16, 4)))
    read = criterion(value, id(tap))
    value.backward()
    own = {id(p): p.grad for p in model.parameters()}
    result = replay(0, tap.entries, table, modules, own, True, [read])
    tap.remove()
    assert isinstance(result, Replay)
    assert result.flow.origin is not None
    assert (result.flow.origin["where"], result.flow.origin["operation"]) == words
    assert result.flow.origin["layer"] is None


def test_a_sum_over_masked_terms_only_is_where_the_infinity_comes_from():
    def hidden(x: torch.Tensor) -> torch.Tensor:
        masked = x.masked_fill(torch.ones_like(x, dtype=torch.bool), -math.inf)
        return x + torch.logsumexp(masked, 1, keepdim=True)

    result, layers = replayed(Noisy(Apply(hidden)), torch.randn(16, 6))
    assert result.flow.origin["operation"] == "logsumexp"
    assert layers[result.flow.origin["layer"]].name == "last"


def test_weights_that_are_not_finite_are_the_origin_and_not_the_operation():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[0, 0] = math.inf
    result, layers = replayed(model, torch.randn(16, 6))
    origin = result.flow.origin
    assert (origin["where"], layers[origin["layer"]].name) == ("weights", "2")
