"""Initialisations: what each guarantees, measured without surefoot, and that all is undone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import nn

from initialization_fixture import NAMES, Pictures, apply, batch, example, mlp
from surefoot.findings import Remedy
from surefoot.remedies import NotApplicable, treatment


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_undone_bit_for_bit_and_the_run_unmoved(name: str) -> None:
    net, x = example(name)
    net.add_module("unused", nn.Dropout())
    modes = [m.training for m in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    subject = apply(name, net, x)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None and p.is_leaf and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    after = {k: v.clone() for k, v in net.state_dict().items()}
    assert any(not torch.equal(after[k], before[k]) for k in before)
    again = apply(name, net, x)  # the draw is the remedy's own: the same each time
    if name != "init.two_way":  # which scales what is there
        assert all(torch.equal(v, after[k]) for k, v in net.state_dict().items())
    again.undo()
    subject.undo()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_frozen_layers_stay(name: str) -> None:
    net, x = example(name)
    first = next(m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    first.requires_grad_(False)
    before = {k: v.clone() for k, v in first.state_dict().items()}
    others = [p.clone() for p in net.parameters() if p.requires_grad]
    apply(name, net, x)
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items())
    now = [p for p in net.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(others, now, strict=True))
    net.requires_grad_(False)
    with pytest.raises(NotApplicable):
        apply(name, net, x)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_that_names_nothing(name: str) -> None:
    net, x = example(name)
    with pytest.raises(NotApplicable):
        apply(name, net, x, target="nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_the_code_runs_and_does_the_same_kind_of_thing(name: str) -> None:
    model = mlp([8, 16, 16, 4]).float()
    layers = [m for m in model if isinstance(m, nn.Linear)]
    blocks = [nn.Module(), nn.Module()]
    for block in blocks:
        block.conv1, block.conv2 = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    conv, rnn = nn.Conv2d(3, 6, 3, padding=1), nn.LSTM(3, 5)
    known = {"layer": layers[1], "layers": layers, "model": model, "x": torch.randn(64, 8)}
    known |= {"conv": conv, "rnn": rnn, "blocks": blocks, "head": nn.Linear(3, 2)}
    if name == "init.depth_scaled":
        known["model"] = nn.ModuleDict({"fc1": nn.Linear(64, 64), "fc2": nn.Linear(64, 64)})
    elif name == "init.two_way":
        for layer in layers:
            nn.init.zeros_(layer.bias)
    code = treatment(Remedy(name, None, "", "")).code()
    exec(code, {"torch": torch, "nn": nn, **known})
    assert not any(m._forward_hooks for m in model.modules())
    if name == "init.orthogonal":
        q = layers[1].weight
        assert torch.allclose(q @ q.T, 2 * torch.eye(16), atol=1e-5)
        for gate in rnn.weight_hh_l0.split(5):
            assert torch.allclose(gate @ gate.T, torch.eye(5), atol=1e-5)
    elif name == "init.delta_orthogonal":
        image = torch.randn(2, 3, 6, 6)
        assert float(conv(image).detach().norm()) == pytest.approx(float(image.norm()), rel=1e-5)
    elif name == "init.lsuv":
        assert float(model(known["x"]).detach().var(correction=0)) == pytest.approx(1, abs=0.1)
    elif name == "init.two_way":
        signal, gradient = profile(model.double(), known["x"].double())
        assert max(map(abs, signal - (gradient - gradient.mean()))) < 0.1
    elif name == "init.looks_linear":
        x, y = torch.randn(3, 8), torch.randn(3, 8)
        assert torch.allclose(model(x + 2 * y), model(x) + 2 * model(y), atol=1e-5)
    elif name == "init.depth_scaled":
        assert float(known["model"].fc2.weight.detach().std()) == pytest.approx(
            0.02, rel=0.1
        )  # N = 1
    elif name == "init.fixup":
        assert blocks[1].conv2.weight.count_nonzero() == 0
    else:
        assert layers[1].weight.std() > 0.1 and layers[1].bias.count_nonzero() == 0


# -- drawn ----------------------------------------------------------------------------------------


def moment(f: Callable[[float], float]) -> float:
    return quad(lambda z: f(z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12)[0]


def test_xavier_has_the_middle_of_both_gains() -> None:
    net = mlp([300, 200, 400], nn.Tanh)
    apply("init.xavier_normal", net, batch(2, 300))
    forward, backward = moment(math.tanh), moment(lambda z: 1 - math.tanh(z) ** 2)
    gain = (forward**-0.5 + backward**-0.5) / 2
    for layer, g in ((net[0], 1.0), (net[2], gain)):
        expected = g * math.sqrt(2 / sum(layer.weight.shape))
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.01)
        assert layer.bias.count_nonzero() == 0


def test_normal_has_unit_gain_whatever_feeds_it() -> None:
    net = nn.Sequential(nn.Conv2d(8, 64, 3), nn.SELU(), nn.Conv2d(64, 32, 3))
    apply("init.normal", net)
    for layer, fan_in in ((net[0], 72), (net[2], 576)):
        assert float(layer.weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.02)


def singular(matrix: torch.Tensor) -> list[float]:
    return torch.linalg.svdvals(matrix.detach().double()).tolist()


def test_orthogonal_layers_have_one_singular_value() -> None:
    net = Pictures()
    apply("init.orthogonal", net, batch(2, 3, 4, 4))
    assert singular(net.one.weight.flatten(1)) == pytest.approx([1.0] * 8)  # nothing feeds it
    assert singular(net.two.weight.flatten(1)) == pytest.approx([math.sqrt(2)] * 12)
    groups = nn.Conv2d(8, 8, 3, groups=2)
    apply("init.orthogonal", groups)
    for part in groups.weight.chunk(2):
        assert singular(part.flatten(1)) == pytest.approx([1.0] * 4, abs=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("module", "gates"),
    [
        (nn.RNN(4, 6, 2), 1),
        (nn.GRU(4, 6, bidirectional=True), 3),
        (nn.LSTM(4, 6, 2, proj_size=5), 4),
        (nn.LSTMCell(4, 6), 4),
        (nn.RNNCell(4, 6), 1),
    ],
)
def test_orthogonal_recurrent_matrices_gate_by_gate(
    module: nn.Module, gates: int, bias: bool
) -> None:
    net = nn.ModuleDict({"cell": module, "out": nn.Linear(6, 6)})
    target = "cell" if bias else "*"
    before = {k: v.clone() for k, v in net.state_dict().items()}
    subject = apply("init.orthogonal", net, target=target)
    states = [k for k in before if "weight_hh" in k]
    assert len(states) >= 1
    for key, value in net.state_dict().items():
        if key in states:
            blocks = value.chunk(gates)
            assert all(singular(b) == pytest.approx([1.0] * min(b.shape), abs=1e-6) for b in blocks)
            assert gates == 1 or not torch.equal(blocks[0], blocks[1])
        elif key.startswith("cell"):
            assert torch.equal(value, before[key])
    assert torch.equal(net["out"].weight, before["out.weight"]) == (target == "cell")
    subject.undo()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_delta_orthogonal_keeps_the_norm_of_every_image() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 2, 1)
    ).double()
    x = batch(2, 3, 5, 5)
    apply("init.delta_orthogonal", net, x)
    for layer, channels, gain in ((net[0], 3, 1.0), (net[2], 8, moment(math.tanh) ** -0.5)):
        image = batch(1, channels, 7, 7, seed=4)
        assert float(layer(image).detach().norm() / image.norm()) == pytest.approx(gain, rel=1e-7)
        middle = layer.weight.shape[-1] // 2
        elsewhere = layer.weight.clone()
        elsewhere[:, :, middle, middle] = 0
        assert elsewhere.count_nonzero() == 0
    assert singular(net[3].weight[:, :, 0, 0]) == pytest.approx([1.0] * 2)  # 8 -> 2: only so far
    back = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, bias=False).double()
    apply("init.delta_orthogonal", back)  # [in, out / groups, ...]: 2 -> 3 channels, twice
    image = batch(1, 4, 3, 3)
    assert float(back(image).detach().norm()) == pytest.approx(float(image.norm()), rel=1e-7)
    with pytest.raises(NotApplicable, match="convolutions"):
        apply("init.delta_orthogonal", mlp([2, 2]))


# -- measured -------------------------------------------------------------------------------------


def profile(net: nn.Module, x: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """ln rms of the linear layers' outputs, ln norm of the gradient there: by hand."""
    outputs: list[torch.Tensor] = []
    for layer in net:  # pyrefly: ignore
        x = layer(x)
        if isinstance(layer, nn.Linear):
            outputs.append(x)
    cotangent = batch(*x.shape, seed=seed)
    gradients = torch.autograd.grad(x, outputs, cotangent)
    return (
        torch.stack([y.detach().square().mean().sqrt().log() for y in outputs]),
        torch.stack([g.norm().log() for g in gradients]),
    )


def imbalance(signal: torch.Tensor, gradient: torch.Tensor) -> float:
    return float(signal.square().sum() + (gradient - gradient.mean()).square().sum())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid])
def test_lsuv_sets_the_variance_of_every_layer(activation: Callable[[], nn.Module]) -> None:
    net, x = mlp([10, 32, 64, 32, 32, 5], activation), 3 * batch(64, 10)
    apply("init.lsuv", net, x)
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert float(x.detach().var(correction=0)) == pytest.approx(1, abs=0.1)
            q = layer.weight @ layer.weight.T if x.shape[1] <= layer.in_features else None
            assert q is None or torch.allclose(q, q[0, 0] * torch.eye(len(q)).to(q))


class Twice(nn.Module):
    """One layer called twice, one weight in two layers, dropout and batch norm beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(16, 16, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(16, dtype=torch.float64)
        self.first = nn.Linear(16, 16, dtype=torch.float64)
        self.tied = nn.Linear(16, 16, dtype=torch.float64)
        self.tied.weight = self.first.weight
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.again(x)
        two = self.again(torch.tanh(one))
        three = self.first(F.relu(self.norm(two)))
        four = self.tied(F.relu(three))
        self.seen = [one, two, three, four]
        return four


@pytest.mark.parametrize("training", [True, False])
def test_lsuv_of_shared_layers_pools_their_calls(training: bool) -> None:
    net, x = Twice().train(training), batch(64, 16)
    apply("init.lsuv", net, x)
    assert net.training is training and net.norm.num_batches_tracked == 0
    net(x)
    one, two, three, four = net.seen
    assert float(torch.cat([one, two]).detach().var(correction=0)) == pytest.approx(1, abs=0.1)
    assert float(torch.cat([three, four]).detach().var(correction=0)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["init.lsuv", "init.two_way"])
def test_measured_ones_need_a_batch_that_goes_through(name: str) -> None:
    with pytest.raises(NotApplicable, match="batch"):
        apply(name, mlp([4, 4, 2]))
    with pytest.raises(NotApplicable, match="refused"):
        apply(name, mlp([4, 4, 2]), batch(3, 5))
    with pytest.raises(NotApplicable, match="not finite"):
        apply(name, mlp([4, 4, 2]), batch(3, 4) * math.inf)


@pytest.mark.parametrize("widths", [[20, *[32] * 20, 10], [20, *[16, 64] * 10, 10]])
@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_two_way_reaches_the_least_imbalance(widths: list[int], factor: float) -> None:
    net, x = mlp(widths), batch(64, 20)
    for layer in net[::2]:
        layer.weight.data.mul_(factor)
        nn.init.zeros_(layer.bias)
    signal, gradient = profile(net, x)
    assert imbalance(signal, gradient) > 50
    # No scales change the profile of r g: half of it is the least that either can be left with.
    product = signal + gradient
    least = float((product - product.mean()).square().sum()) / 2
    apply("init.two_way", net, x)
    signal, gradient = profile(net, x)
    assert imbalance(signal, gradient) == pytest.approx(least, rel=0.02)
    assert least < 1.5
    assert abs(float(signal.mean())) < 0.02
    assert float((signal - gradient + gradient.mean()).abs().max()) < 0.05
    signal, gradient = profile(net, x, seed=9)  # along another random direction: nearly as good
    assert imbalance(signal, gradient) < 2.5


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Sigmoid])
def test_two_way_is_never_worse_than_the_forward_half(activation: Callable[[], nn.Module]) -> None:
    net, x = mlp([10, *[32] * 15, 5], activation), batch(64, 10)
    undrawn = copy.deepcopy(net)
    apply("init.two_way", net, x)
    both = imbalance(*profile(net, x))
    y = x
    for layer in undrawn:  # by hand: the rms of one output after another becomes one
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
            layer.weight.data /= layer(y).detach().square().mean().sqrt()
        y = layer(y)
    signal, gradient = profile(undrawn, x)
    assert float(signal.abs().max()) < 1e-9
    assert both < 0.7 * imbalance(signal, gradient)


class Aside(nn.Module):
    """Two layers, the second of which is not reached by the gradient, and writing in place."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(6, 16, dtype=torch.float64)
        self.blind = nn.Linear(6, 16, dtype=torch.float64)
        self.head = nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blind = self.blind(x).detach()
        return self.head(F.relu_(self.used(x)) + blind)


def test_two_way_beside_layers_without_a_gradient() -> None:
    net, x = Aside(), batch(64, 6)
    apply("init.two_way", net, x)
    assert float(net.blind(x).detach().square().mean()) == pytest.approx(1, abs=0.03)
    z = net.used(x)
    out = net.head(F.relu(z) + net.blind(x).detach())
    (g,) = torch.autograd.grad(out, z, batch(*out.shape))
    signal = torch.stack([y.detach().square().mean().sqrt().log() for y in (z, out)])
    gradient = torch.stack([g.norm().log(), batch(*out.shape).norm().log()])
    assert float((signal - gradient + gradient.mean()).abs().max()) < 0.1


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).detach()


def test_two_way_needs_a_gradient() -> None:
    net = Detached()
    net.register_forward_hook(lambda m, x, y: y * net.layer.weight.sum())  # not part of the model
    with pytest.raises(NotApplicable, match="no gradient comes back"):
        apply("init.two_way", net, torch.randn(2, 4))
