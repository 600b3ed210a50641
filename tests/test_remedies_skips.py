"""Around which blocks a skip connection is put, and around which it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surefoot.remedies import TREATMENTS, FirstCall, NotApplicable, Subject

WIDTH = 8


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def applied(net, *args, name="residual.rezero", target=None):
    subject = Subject([net], [], FirstCall(net, args))
    TREATMENTS[name](target).apply(subject)
    return subject


def names(net):
    """The modules that were given a scale."""
    return [n.rpartition(".")[0] for n, _ in net.named_parameters() if n.endswith("residual_scale")]


class Layered(nn.Module):
    """A list of layers, and what is done with each given by a function."""

    def __init__(self, step, depth=3):
        super().__init__()
        self.first, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 1)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])
        self.step = step

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = self.step(layer, x)
        return self.head(x)


@pytest.mark.parametrize(
    "step",
    [
        lambda layer, x: x + torch.relu(layer(x)),
        lambda layer, x: torch.relu(layer(torch.tanh(x)) + x),
        lambda layer, x: x + 0.1 * layer(nn.functional.layer_norm(x, x.shape[-1:])),
    ],
)
def test_skips_that_a_forward_has_already_are_seen(step):
    with pytest.raises(NotApplicable, match="skip connections already"):
        applied(Layered(step), torch.randn(5, 4))


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_has_skips_already(norm_first):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, norm_first=norm_first)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    for name in ("residual.rezero", "residual.pre_norm"):
        with pytest.raises(NotApplicable, match="skip connections already"):
            applied(net, torch.randn(5, 3, WIDTH), name=name)


def test_a_residual_net_on_an_embedding_has_skips_and_its_pooler_is_no_chain():
    class Pooled(Layered):
        def __init__(self):
            super().__init__(lambda layer, x: x + layer(x))
            self.first, self.pooler = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.head = nn.Sequential(self.pooler, nn.Tanh(), nn.Linear(WIDTH, 1))

    with pytest.raises(NotApplicable, match="skip connections already"):
        applied(Pooled(), torch.randint(5, (6,)))


def test_a_layer_without_an_activation_behind_it_is_a_block_by_itself():
    net = Layered(lambda layer, x: layer(x))
    x = torch.randn(5, 4)
    applied(net, x)
    h = net.first(x)
    for layer in net.layers:
        layer.residual_scale.data.fill_(0.5)
        h = h + 0.5 * nn.functional.linear(h, layer.weight, layer.bias)
    assert torch.allclose(net(x), net.head(h))


def test_a_list_that_acts_before_each_layer_has_blocks_that_begin_with_the_layer():
    net = Layered(lambda layer, x: layer(torch.tanh(x)))
    x = torch.randn(5, 4)
    applied(net, x)
    h = torch.tanh(net.first(x))
    for layer in net.layers[:2]:
        layer.residual_scale.data.fill_(0.5)
        h = h + 0.5 * torch.tanh(nn.functional.linear(h, layer.weight, layer.bias))
    assert names(net) == ["layers.0", "layers.1", "layers.2"]
    assert torch.allclose(net(x), net.head(h))


def test_the_children_of_a_sequential_that_are_called_by_somebody_else():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            run = [m for _ in range(3) for m in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
            self.body, self.head = nn.Sequential(*run), nn.Linear(WIDTH, 1)

        def forward(self, x):
            for part in self.body:
                x = part(x)
            return self.head(x)

    net, x = Own(), torch.randn(5, WIDTH)
    applied(net, x)
    assert names(net) == ["body.0", "body.2", "body.4"]
    assert torch.equal(net(x), net.head(x))


def test_widths_that_change_leave_no_block():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 1))
    with pytest.raises(NotApplicable, match="the shape of its input"):
        applied(net, torch.randn(5, 4))
    with pytest.raises(NotApplicable, match="a batch"):
        TREATMENTS["residual.rezero"]().apply(Subject([net]))


def test_the_output_layer_of_equal_width_is_no_block():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    applied(net, torch.randn(5, 4))
    assert names(net) == ["0"]


def test_convolutions_with_norm_and_dropout_are_runs():
    def run():
        return nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True), nn.Dropout2d(0.0)

    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *run(), *run(), nn.Flatten())
    x = torch.randn(2, 3, 5, 5)
    subject = applied(net, x, name="residual.pre_norm")
    h = net[0](x)
    for i in (1, 5):
        mean, square = h.mean(1, keepdim=True), h.var(1, correction=0, keepdim=True)
        h = h + 2**-0.5 * net[i : i + 4]((h - mean) / (square + 1e-5).sqrt())
    assert torch.allclose(net(x), h.flatten(1), rtol=1e-4, atol=1e-5)
    subject.undo()
    applied(net, x)
    assert names(net) == ["1", "5"]
    assert torch.equal(net(x), net[0](x).flatten(1))


def test_never_twice_around_nested_blocks():
    inner = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2)]
    net = nn.Sequential(nn.Linear(4, 8), *inner, nn.Linear(8, 1))
    applied(net, torch.randn(5, 4))
    assert names(net) == ["1", "2"]


def test_of_long_stages_the_runs_inside_are_taken():
    stages = [
        nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(8, 8), nn.ReLU())])
        for _ in range(2)
    ]
    net = nn.Sequential(nn.Linear(4, 8), *stages, nn.Linear(8, 1))
    applied(net, torch.randn(5, 4))
    assert names(net) == [f"{s}.{i}" for s in (1, 2) for i in range(0, 10, 2)]


def test_a_target_names_the_blocks():
    net = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(8, 8), nn.ReLU())])
    applied(net, torch.randn(5, 8), target="[24]")
    assert names(net) == ["2", "4"]


def test_a_frozen_block_is_left_as_it_is():
    net = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(8, 8), nn.ReLU())])
    net[2].requires_grad_(False)
    applied(net, torch.randn(5, 8))
    assert names(net) == ["0", "4"]


def test_a_block_that_writes_on_its_input_is_given_a_copy():
    def block():
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8))

    net = nn.Sequential(nn.Linear(4, 8), block(), block())
    x = torch.randn(5, 4)
    applied(net, x)
    out = net(x)
    assert torch.equal(out, net[0](x))
    out.sum().backward()


def test_layers_with_tied_weights_and_several_calls():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mid, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            x = self.first(x)
            for _ in range(3):
                x = torch.tanh(self.mid(x))
            return self.head(x)

    net, x = Tied(), torch.randn(5, 4)
    applied(net, x)
    assert torch.equal(net(x), net.head(net.first(x)))
    net.mid.residual_scale.data.fill_(2.0)
    h = net.first(x)
    for _ in range(3):
        h = h + 2.0 * torch.tanh(nn.functional.linear(h, net.mid.weight, net.mid.bias))
    assert torch.allclose(net(x), net.head(h))


def test_an_attribute_of_the_same_name_is_not_overwritten():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    net[0].residual_scale = 1.0
    with pytest.raises(NotApplicable, match="already"):
        applied(net, torch.randn(5, 4))


@pytest.fixture(scope="module")
def _compiler():
    """dynamo is set up before the test, which would be charged with what that leaves behind."""
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1))


@pytest.mark.usefixtures("_compiler")
def test_a_net_with_skips_compiles():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(5, 4)
    applied(net, x)
    net[1].residual_scale.data.fill_(0.5)
    compiled = torch.compile(net, backend="eager")
    h = net[0](x)
    h = h + 0.5 * torch.tanh(net[1](h))
    assert torch.allclose(compiled(x), net[3](h))
    compiled(x).sum().backward()
    assert net[1].residual_scale.grad is not None


@pytest.mark.usefixtures("_compiler")
def test_a_net_that_calls_its_activations_compiles():
    net, x = Layered(lambda layer, x: torch.tanh(layer(x))), torch.randn(5, 4)
    applied(net, x)
    compiled = torch.compile(net, backend="eager")
    for _ in range(2):
        assert torch.allclose(compiled(x), net.head(net.first(x)))
