"""Remedies that change what a network computes: activations and skip connections."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from surefoot.remedies import TREATMENTS, FirstCall, NotApplicable, Subject

WIDTH = 8
SPELLINGS = {
    "torch.sigmoid": (torch.sigmoid, torch.sigmoid),
    "F.sigmoid": (F.sigmoid, torch.sigmoid),
    "x.sigmoid": (lambda x: x.sigmoid(), torch.sigmoid),
    "x.sigmoid_": (lambda x: x.sigmoid_(), torch.sigmoid),
    "expit": (torch.special.expit, torch.sigmoid),
    "torch.tanh": (torch.tanh, torch.tanh),
    "F.tanh": (F.tanh, torch.tanh),
    "x.tanh": (lambda x: x.tanh(), torch.tanh),
    "nn.Tanh": (nn.Tanh(), torch.tanh),
}
RESIDUAL = ("residual.rezero", "residual.skip_init", "residual.identity", "residual.pre_norm")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Plain(nn.Module):
    """A net with its layers in a list, and an activation that its own code calls."""

    def __init__(self, depth=3, act=torch.sigmoid, last=None, width=WIDTH):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.head = nn.Linear(width, 2)
        self.act, self.last = act, last

    def forward(self, x):
        x = self.act(self.first(x))
        for layer in self.layers:
            x = self.act(layer(x))
        x = self.head(x)
        return x if self.last is None else self.last(x)


def subject_of(net, x, optimizer=False):
    optimizers = [torch.optim.SGD(net.parameters(), 0.1)] if optimizer else []
    return Subject([net], optimizers, FirstCall(net, (x,)))


def applied(name, net, x, target=None, optimizer=False, **parameters):
    subject = subject_of(net, x, optimizer)
    TREATMENTS[name](target, **parameters).apply(subject)
    return subject


def by_hand(net, x, act, last=None):
    """What `Plain` computes with another activation."""
    for layer in (net.first, *net.layers):
        x = act(F.linear(x, layer.weight, layer.bias))
    x = F.linear(x, net.head.weight, net.head.bias)
    return x if last is None else last(x)


# -- activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_replaced_in_hidden_layers_and_kept_at_the_output(spelling):
    act, plain = SPELLINGS[spelling]
    net, x = Plain(act=act, last=act), torch.randn(5, 4)
    before = net(x)
    subject = applied("activation.relu", net, x, reinitialise=False)
    assert torch.equal(net(x), by_hand(net, x, torch.relu, plain))
    subject.undo()
    assert torch.equal(net(x), before) and type(net) is Plain


@pytest.mark.parametrize(
    ("name", "function"),
    [("relu", F.relu), ("gelu", F.gelu), ("selu", F.selu)],
)
def test_each_activation_computes_its_function(name, function):
    net, x = Plain(), torch.randn(5, 4)
    applied(f"activation.{name}", net, x, reinitialise=False)
    assert torch.equal(net(x), by_hand(net, x, function))


def test_leaky_relu_replaces_relu_in_place_too():
    net, x = Plain(act=nn.ReLU(inplace=True)), torch.randn(5, 4)
    applied("activation.leaky_relu", net, x, reinitialise=False)
    assert torch.equal(net(x), by_hand(net, x, F.leaky_relu))
    net(x).sum().backward()


@pytest.mark.parametrize(
    ("name", "gain"),
    [("relu", 2**0.5), ("gelu", 1.5335), ("selu", 1.0), ("leaky_relu", (2 / 1.0001) ** 0.5)],
)
def test_layers_that_are_fed_get_the_gain_that_belongs(name, gain):
    net, x = Plain(width=256), torch.randn(5, 4)
    old = {k: v.clone() for k, v in net.state_dict().items()}
    net.layers[2].requires_grad_(False)
    state = torch.get_rng_state()
    subject = applied(f"activation.{name}", net, x, replaces=("sigmoid",))
    assert torch.equal(torch.get_rng_state(), state)
    for layer in (net.layers[0], net.layers[1]):
        assert layer.weight.std().item() == pytest.approx(gain / 16, rel=0.02)
        assert not layer.bias.any()
    # The first one, which nothing feeds, saturated what is no more.
    assert net.first.weight.std().item() == pytest.approx(1 / 2, rel=0.1)
    assert not net.first.bias.any()
    # The third is frozen, and what follows it was made for it.
    for untouched in ("layers.2", "head"):
        untouched += ".weight"
        assert torch.equal(net.state_dict()[untouched], old[untouched])
    subject.undo()
    assert all(torch.equal(v, old[k]) for k, v in net.state_dict().items())


def test_with_its_weights_relu_keeps_a_sigmoid_net_of_thirty_layers_alive():
    net, x = Plain(depth=28, width=64), torch.randn(16, 4)
    net(x).sum().backward()
    assert float(net.first.weight.grad.norm()) < 1e-15
    applied("activation.relu", net, x)
    net.zero_grad()
    net(x).sum().backward()
    assert float(net.first.weight.grad.norm()) > 1e-2


class Gates(nn.Module):
    """A gated unit, squeeze and excite, and a GRU written by hand."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, x):
        h = torch.zeros(len(x), WIDTH)
        for step in x.unbind(1):
            z = torch.sigmoid(self.a(step))
            keep = torch.sigmoid(self.b(step))  # of nothing, in the first step
            h = keep * h + z * torch.tanh(self.b(step))
        h = h * torch.sigmoid(self.c(h)).view(len(x), WIDTH)
        return self.out(h)


def test_gates_are_left_alone():
    net, x = Gates(), torch.randn(5, 3, WIDTH)
    with pytest.raises(NotApplicable, match="gates something"):
        applied("activation.relu", net, x)


def test_a_norm_by_hand_and_a_scale_for_each_channel_are_no_gates():
    class Scaled(Plain):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(WIDTH))

        def act_of(self, h, act):
            h = act(h)
            h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
            return self.head(h * self.scale.view(1, -1))

        def forward(self, x):
            return self.act_of(self.first(x), torch.tanh)

    net, x = Scaled(), torch.randn(5, 4)
    applied("activation.relu", net, x, reinitialise=False)
    assert torch.equal(net(x), net.act_of(net.first(x), torch.relu))


def test_inside_of_a_recurrent_layer_nothing_is_replaced():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(4, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)

        def forward(self, x):
            return self.out(self.lstm(x)[0])

    with pytest.raises(NotApplicable, match="nothing computes hardsigmoid or sigmoid or tanh"):
        applied("activation.relu", Recurrent(), torch.randn(5, 3, 4))


def test_a_target_names_the_layer_whose_activation_is_meant():
    net, x = Plain(depth=2), torch.randn(5, 4)
    applied("activation.relu", net, x, "layers.1", reinitialise=False)
    h = torch.sigmoid(net.layers[0](torch.sigmoid(net.first(x))))
    assert torch.equal(net(x), net.head(torch.relu(net.layers[1](h))))


def test_a_loop_that_gets_longer_goes_on_with_the_new_function():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.u, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

        def forward(self, x):
            h = x[:, 0]
            for step in x.unbind(1):
                h = torch.tanh(self.u(h) + step)
            return self.out(h)

    net = Loop()
    applied("activation.relu", net, torch.randn(5, 3, WIDTH), reinitialise=False)
    long = torch.randn(5, 7, WIDTH)
    h = long[:, 0]
    for step in long.unbind(1):
        h = torch.relu(net.u(h) + step)
    assert torch.equal(net(long), net.out(h))


def test_checkpointed_layers_are_computed_alike_a_second_time():
    class Saving(Plain):
        def forward(self, x):
            x = self.act(self.first(x))
            for layer in self.layers:
                x = checkpoint(lambda y, layer=layer: self.act(layer(y)), x, use_reentrant=False)
            return self.head(x)

    net, x = Saving(act=nn.Sigmoid()), torch.randn(5, 4)
    applied("activation.relu", net, x, reinitialise=False)
    net(x).sum().backward()
    found = net.first.weight.grad.clone()
    net.zero_grad()
    by_hand(net, x, torch.relu).sum().backward()
    assert torch.allclose(found, net.first.weight.grad)


def test_a_second_substitution_and_a_copy_of_the_model():
    net, x = Plain(), torch.randn(5, 4)
    first = applied("activation.relu", net, x, reinitialise=False)
    second = applied("activation.leaky_relu", net, x, reinitialise=False)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), by_hand(net, x, F.leaky_relu))
    second.undo()
    assert torch.equal(net(x), by_hand(net, x, torch.relu))
    first.undo()
    assert torch.equal(net(x), by_hand(net, x, torch.sigmoid))


def test_unbounded_ones_are_replaced_when_asked_for():
    net, x = Plain(act=F.gelu, last=F.gelu), torch.randn(5, 4)
    applied("activation.relu", net, x, replaces=["gelu", "silu"], reinitialise=False)
    assert torch.equal(net(x), by_hand(net, x, torch.relu, F.gelu))


def test_a_matrix_that_is_an_embeddings_too_is_not_drawn():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.mid = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 5)
            self.head.weight = self.table.weight

        def forward(self, x):
            return self.head(torch.tanh(self.mid(self.table(x))))

    net = Tied()
    old = net.table.weight.detach().clone()
    applied("activation.relu", net, torch.randint(5, (6,)))
    assert torch.equal(net.table.weight, old)


def test_activations_refuse_what_they_cannot_do():
    net, x = Plain(act=torch.relu), torch.randn(5, 4)
    with pytest.raises(NotApplicable, match="nothing computes hardsigmoid or sigmoid or tanh"):
        applied("activation.relu", net, x)
    with pytest.raises(NotApplicable, match="a batch"):
        TREATMENTS["activation.relu"]().apply(Subject([net]))
    with pytest.raises(ValueError, match="names of activations"):
        applied("activation.relu", net, x, replaces=("conv2d",))
    with pytest.raises(NotApplicable, match="makes the output"):
        applied("activation.relu", Plain(act=torch.relu, last=torch.sigmoid), x)


# -- skip connections -----------------------------------------------------------------------------


def run_net(act, depth=60):
    rest = [m for _ in range(depth) for m in (nn.Linear(WIDTH, WIDTH), act())]
    return nn.Sequential(nn.Linear(4, WIDTH), *rest, nn.Linear(WIDTH, 2))


def family_net(act, depth=60):
    def block():
        return nn.Sequential(nn.Linear(WIDTH, 16), act(), nn.Linear(16, WIDTH), act())

    return nn.Sequential(nn.Linear(4, WIDTH), *[block() for _ in range(depth)], nn.Linear(WIDTH, 2))


def list_net(act, depth=60):
    return Plain(depth, act())


def block_inputs(net, found):
    """Forward hooks that collect what goes into layers of equal width, and its gradient."""
    for module in net.modules():
        if isinstance(module, nn.Linear) and module.in_features == WIDTH:
            module.register_forward_pre_hook(lambda m, a: found.append(a[0]))


@pytest.mark.parametrize("act", [nn.Sigmoid, nn.ReLU])
@pytest.mark.parametrize("make", [run_net, family_net, list_net])
@pytest.mark.parametrize("name", ["residual.rezero", "residual.skip_init"])
def test_at_the_start_the_chain_is_the_identity_and_gradients_are_equal(name, make, act):
    net, x = make(act).double(), torch.randn(5, 4).double()
    net(x).sum().backward()
    first = next(net.parameters())
    vanished = float(first.grad.norm())
    subject = applied(name, net, x, optimizer=True)
    assert len(subject.adopted) == 60
    group = subject.optimizers[0].param_groups[0]["params"]
    assert {id(p) for p in subject.adopted} <= {id(p) for p in group}
    net.zero_grad()
    seen: list[torch.Tensor] = []
    block_inputs(net, seen)
    out = net(x)
    for h in seen:
        h.retain_grad()
    out.sum().backward()
    # What goes into each block is what came out of the first layer, and so is its gradient.
    assert len(seen) == 61
    assert all(torch.equal(h, seen[0]) for h in seen)
    norms = [float(h.grad.norm()) for h in seen]
    assert norms == pytest.approx([norms[-1]] * 61, rel=1e-12)
    assert float(first.grad.norm()) > 1e3 * vanished
    assert all(p.grad is not None and p.grad.item() != 0 for p in subject.adopted)


@pytest.mark.parametrize("make", [run_net, family_net, list_net])
def test_skips_compute_what_their_formula_says_and_are_taken_back(make):
    net, x = make(nn.Tanh, 3).double(), torch.randn(5, 4).double()
    before, parameters = net(x), [id(p) for p in net.parameters()]
    if isinstance(net, Plain):
        front, back = lambda x: torch.tanh(net.first(x)), net.head
        blocks = [lambda x, m=m: torch.tanh(m(x)) for m in net.layers]
    else:
        front, back = net[0], net[-1]
        size = 2 if make is run_net else 1
        blocks = [net[i : i + size] for i in range(1, len(net) - 1, size)]

    def expected(alpha, norm=lambda x: x):
        h = front(x)
        for block in blocks:
            h = h + alpha * block(norm(h))
        return back(h)

    def standard(h):
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    wanted = {
        "residual.rezero": expected(0.3),
        "residual.skip_init": expected(0.3),
        "residual.identity": expected(3**-0.5),
        "residual.pre_norm": expected(3**-0.5, standard),
    }
    for name in RESIDUAL:
        subject = applied(name, net, x, optimizer=True)
        for alpha in subject.adopted:
            alpha.data.fill_(0.3)
        assert torch.allclose(net(x), wanted[name], rtol=1e-10)
        assert torch.allclose(copy.deepcopy(net)(x), wanted[name], rtol=1e-10)
        subject.undo()
        assert torch.equal(net(x), before) and [id(p) for p in net.parameters()] == parameters
        assert len(subject.optimizers[0].param_groups[0]["params"]) == len(parameters)
