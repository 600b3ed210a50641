"""Remedies for what goes into an activation, what comes out of a net, and where a graph is cut."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surefoot.remedies import TREATMENTS, FirstCall, NotApplicable, Subject

WIDTH = 8


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def applied(name, net, *args, target=None, optimizers=(), **parameters):
    subject = Subject([net], optimizers, FirstCall(net, args))
    TREATMENTS[name](target, **parameters).apply(subject)
    return subject


class Ending(nn.Module):
    """Two layers, and a function at the end."""

    def __init__(self, end, act=torch.tanh):
        super().__init__()
        self.body, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        self.act, self.end = act, end

    def raw(self, x):
        h = F.linear(x, self.body.weight, self.body.bias)
        return F.linear(self.act(h), self.head.weight, self.head.bias)

    def forward(self, x):
        return self.end(self.head(self.act(self.body(x))))


# -- normalisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_layer_norm_stands_before_each_hidden_activation(known):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    net.append(nn.Sigmoid())
    net, x = net.double(), torch.randn(5, 4).double()
    before = net(x)
    subject = Subject([net], call=FirstCall(net, (x,)) if known else None)
    TREATMENTS["normalization.layer_norm"]().apply(subject)
    h = F.linear(x, net[0].weight, net[0].bias)
    h = torch.tanh((h - h.mean(1, True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt())
    h = F.linear(h, net[2].weight, net[2].bias)
    h = torch.relu((h - h.mean(1, True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt())
    out = torch.sigmoid(F.linear(h, net[4].weight, net[4].bias))
    assert torch.allclose(net(x), out, rtol=1e-10)
    subject.undo()
    assert torch.equal(net(x), before)


def test_layer_norm_of_a_convolution_is_over_channels():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2))
    x = torch.randn(2, 3, 5, 5)
    applied("normalization.layer_norm", net, x)
    y = net[0](x)
    assert torch.allclose(y.mean(1), torch.zeros(2, 3, 3), atol=1e-5)
    assert torch.allclose(y.square().mean(1), torch.ones(2, 3, 3), atol=1e-2)


@pytest.mark.parametrize("spatial", [False, True])
def test_batch_norm_is_what_torchs_module_is(spatial):
    first = nn.Conv1d(4, 6, 1) if spatial else nn.Linear(4, 6)
    net, x = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(1)), torch.randn(5, 4, 3)
    x = x if spatial else x.transpose(1, 2)
    net(x)
    plain, norm = copy.deepcopy(first), nn.BatchNorm1d(6, affine=False)
    subject = applied("normalization.batch_norm", net, x)

    def reference(x):
        y = plain(x)
        return norm(y) if spatial else norm(y.reshape(-1, 6)).reshape(y.shape)

    for batch in (x, 3 * x + 1):
        assert torch.allclose(net[0](batch), reference(batch), atol=1e-6)
    net.eval(), norm.eval()
    assert torch.allclose(net[0](x), reference(x), atol=1e-6)
    assert len(list(net.buffers())) == 2
    subject.undo()
    assert not list(net.buffers()) and torch.equal(net[0](x), plain(x))


def test_batch_norm_without_skips_explodes_as_its_limits_say():
    width, depth = 256, 40
    run = [m for _ in range(depth) for m in (nn.Linear(width, width, bias=False), nn.ReLU())]
    net, x = nn.Sequential(*run, nn.Linear(width, 1)), torch.randn(256, width)
    applied("normalization.batch_norm", net, x)
    entered: list[torch.Tensor] = []
    for k in (10, 30):  # between layers of the middle
        net[2 * k].register_forward_pre_hook(lambda m, a: entered.append(a[0]))
    out = net(x)
    for h in entered:
        h.retain_grad()
    (out * torch.randn_like(out)).sum().backward()
    growth = (entered[0].grad.norm() / entered[1].grad.norm()) ** (1 / 20)
    assert growth.item() == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.03)
    assert any("1.21" in limit for limit in TREATMENTS["normalization.batch_norm"].limits)


def test_what_is_normalised_already_is_not_normalised_again():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    for name in ("normalization.layer_norm", "normalization.batch_norm"):
        with pytest.raises(NotApplicable, match="normalised already"):
            applied(name, net, torch.randn(5, 4))
        with pytest.raises(NotApplicable, match="normalised already"):
            TREATMENTS[name]().apply(Subject([net]))
        with pytest.raises(NotApplicable, match="followed by an activation"):
            applied(name, nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), torch.randn(5, 4))


def test_a_frozen_layer_is_not_normalised():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    x = torch.randn(5, 4)
    before = net[0](x), net[2](net[0](x))
    applied("normalization.layer_norm", net, x)
    assert torch.equal(net[0](x), before[0])
    assert not torch.equal(net[2](net[0](x)), before[1])


# -- the output -----------------------------------------------------------------------------------

ENDS = {
    "torch.softmax": lambda z: torch.softmax(z, 1),
    "F.softmax": lambda z: F.softmax(z, dim=1),
    "z.softmax": lambda z: z.softmax(-1),
    "nn.Softmax": nn.Softmax(1),
}
OTHER_ENDS = {
    "F.log_softmax": lambda z: F.log_softmax(z, dim=1),
    "nn.LogSoftmax": nn.LogSoftmax(1),
    "torch.sigmoid": torch.sigmoid,
    "nn.Sigmoid": nn.Sigmoid(),
    "squeezed": lambda z: torch.sigmoid(z).view(-1, 3),
}


@pytest.mark.parametrize("end", ENDS | OTHER_ENDS)
def test_logits_are_what_the_last_layer_computes(end):
    net, x = Ending((ENDS | OTHER_ENDS)[end], act=torch.sigmoid), torch.randn(5, 4)
    before = net(x)
    subject = applied("output.logits", net, x)
    assert torch.equal(net(x), net.raw(x))
    subject.undo()
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("end", ENDS)
def test_log_softmax_takes_the_place_of_a_softmax(end):
    net, x = Ending(ENDS[end]), 300 * torch.randn(5, 4)
    applied("output.log_softmax", net, x)
    assert torch.equal(net(x), F.log_softmax(net.raw(x), dim=1))
    assert torch.isfinite(net(x)).all()


def test_of_two_at_the_output_both_are_left_out_or_the_last_is_replaced():
    x = torch.randn(5, 4)

    def make():
        return Ending(lambda z: torch.softmax(torch.softmax(z, 1), 1))

    net = make()
    applied("output.logits", net, x)
    assert torch.equal(net(x), net.raw(x))
    net = make()
    applied("output.log_softmax", net, x)
    assert torch.equal(net(x), F.log_softmax(torch.softmax(net.raw(x), 1), 1))


def test_log_softmax_of_raw_scores_and_of_what_is_none():
    net, x = Ending(lambda z: z), torch.randn(5, 4)
    applied("output.log_softmax", net, x)
    assert torch.equal(net(x), F.log_softmax(net.raw(x), dim=1))
    with pytest.raises(NotApplicable, match="a log-softmax already"):
        applied("output.log_softmax", Ending(OTHER_ENDS["F.log_softmax"]), x)
    with pytest.raises(NotApplicable, match="a sigmoid"):
        applied("output.log_softmax", Ending(torch.sigmoid), x)
    with pytest.raises(NotApplicable, match="dimension 1"):
        applied("output.log_softmax", Ending(lambda z: z.sum(1)), x)


@pytest.mark.parametrize("end", [torch.relu, nn.Tanh(), F.softplus, lambda z: z.sigmoid_()])
def test_a_linear_output_has_no_activation_and_the_hidden_ones_stay(end):
    net, x = Ending(end, act=torch.relu), torch.randn(5, 4)
    applied("output.linear", net, x)
    assert torch.equal(net(x), net.raw(x))


def test_an_activation_shared_with_hidden_layers_is_left_out_at_the_output_only():
    act = nn.Tanh()
    net, x = Ending(act, act=act), torch.randn(5, 4)
    applied("output.linear", net, x)
    h = torch.tanh(F.linear(x, net.body.weight, net.body.bias))
    assert torch.equal(net(x), F.linear(h, net.head.weight, net.head.bias))


def test_softmax_of_attention_and_gates_are_no_output():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.score, self.value = nn.Linear(4, 1), nn.Linear(4, 2)

        def forward(self, x):
            return (torch.softmax(self.score(x), 1) * self.value(x)).sum(1)

    for name in ("output.logits", "output.linear"):
        with pytest.raises(NotApplicable, match="output is no"):
            applied(name, Pooled(), torch.randn(5, 3, 4))
        with pytest.raises(NotApplicable, match="output is no"):
            applied(name, Ending(lambda z: z, act=torch.sigmoid), torch.randn(5, 4))


@pytest.fixture(scope="module")
def _compiler():
    """dynamo is set up before the test, which would be charged with what that leaves behind."""
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1))


@pytest.mark.usefixtures("_compiler")
def test_the_right_calls_are_left_out_of_a_compiled_model():
    class Several(Ending):
        def forward(self, x):
            return self.end(self.head(self.act(torch.sigmoid(torch.sigmoid(self.body(x))))))

    net, x = Several(nn.Softmax(1), act=torch.sigmoid), torch.randn(5, 4)
    applied("output.logits", net, x)
    h = F.linear(x, net.body.weight, net.body.bias).sigmoid().sigmoid().sigmoid()
    compiled = torch.compile(net, backend="eager")
    for _ in range(3):
        assert torch.allclose(compiled(x), F.linear(h, net.head.weight, net.head.bias))
