"""Initialisations for depth: looks-linear, transformers' scaling and Fixup, against oracles."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initialization_fixture import Pictures, Residual, apply, batch, mlp, stack
from surefoot.remedies import NotApplicable


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# -- looks-linear ---------------------------------------------------------------------------------


def gradient_at(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    out = net(x)
    return torch.autograd.grad(out, x, torch.ones_like(out))[0]


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: mlp([7, *[16] * 50, 3]), (4, 7)),
        (lambda: mlp([5, 8, 12, 6, 9], nn.LeakyReLU), (4, 5)),
        (Pictures, (4, 3, 4, 4)),
    ],
)
def test_looks_linear_is_linear(net: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = net()
    x, y = batch(*shape, seed=1), batch(*shape, seed=2)
    assert not torch.allclose(gradient_at(model, x), gradient_at(model, y), rtol=0.01, atol=0)
    apply("init.looks_linear", model, batch(*shape))
    f = model
    assert torch.allclose(f(0.3 * x - 2 * y), 0.3 * f(x) - 2 * f(y), rtol=1e-9, atol=1e-12)
    assert torch.allclose(gradient_at(f, x), gradient_at(f, y), rtol=1e-9, atol=1e-12)
    assert float(f(x).detach().abs().max()) > 1e-3  # and not zero


def test_looks_linear_keeps_the_norm_between_equal_widths() -> None:
    net = mlp([8, *[16] * 20, 8])
    apply("init.looks_linear", net)  # known by the order of modules alone
    x = batch(3, 8)
    assert torch.allclose(net(x).norm(dim=1), x.norm(dim=1), rtol=1e-9)


def test_looks_linear_in_training_mode_with_dropout() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    apply("init.looks_linear", net, torch.randn(3, 4))
    assert net.training and net[2].training
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    net.eval()
    assert torch.allclose(net(x + y), net(x) + net(y), atol=1e-5)


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.last.weight.new_ones(1) * self.inner(F.relu(self.first(x)))))


def between(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *middle, nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("middle", "why"),
    [
        ((nn.ReLU(), nn.MaxPool2d(2)), "not linear"),
        ((nn.BatchNorm2d(4), nn.ReLU()), "not linear"),
        ((nn.Tanh(),), "no layer is fed"),
        ((nn.Conv2d(4, 3, 1), nn.ReLU()), "width of 1, 3, is not even"),
        ((nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)), "groups"),
    ],
)
def test_looks_linear_refuses(middle: tuple[nn.Module, ...], why: str) -> None:
    net, x = between(*middle), torch.randn(2, 2, 4, 4)
    net(x)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(NotApplicable, match=why):
        apply("init.looks_linear", net, x)
    assert before.keys() == net.state_dict().keys()


def test_looks_linear_refuses_a_layer_called_twice() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(F.relu(self.two(F.relu(self.one(x)))))

    with pytest.raises(NotApplicable):
        apply("init.looks_linear", Loop(), torch.randn(3, 8))
    apply("init.looks_linear", Again(), torch.randn(3, 4))


def test_looks_linear_around_a_frozen_layer() -> None:
    net = mlp([4, 8, 8, 8, 8, 2])
    net[2].requires_grad_(False)
    kept = net[2].weight.clone()
    apply("init.looks_linear", net, batch(3, 4))
    assert torch.equal(net[2].weight, kept)
    tail = net[4:]
    x, y = batch(3, 8, seed=1), batch(3, 8, seed=2)
    assert torch.allclose(tail(x + y), tail(x) + tail(y))
    assert not torch.allclose(net[:4](x[:, :4] + y[:, :4]), net[:4](x[:, :4]) + net[:4](y[:, :4]))


# -- transformers ---------------------------------------------------------------------------------


class Mixer(nn.Module):
    """A pre-norm block with two branches, whose layers have no telling names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.alpha, self.beta = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gamma, self.delta = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, float]:
        q, k, v = self.alpha(self.norm(x)).chunk(3, -1)
        x = x + F.dropout(self.beta(F.scaled_dot_product_attention(q, k, v)), 0.1, self.training)
        return x + self.delta(F.gelu(self.gamma(F.layer_norm(x, x.shape[-1:])))), scale


class Language(nn.Module):
    def __init__(self, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(50, width, padding_idx=0)
        self.stack = nn.ModuleList(Mixer(width) for _ in range(blocks))
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.words(x)
        for block in self.stack:
            h, _ = block(h, scale=2.0)
        return self.head(h)


def std(weight: torch.Tensor) -> float:
    return float(weight.detach().std())


def test_depth_scaled_finds_what_writes_to_the_stream() -> None:
    net = Language()
    norms = [copy.deepcopy(b.norm.state_dict()) for b in net.stack]
    apply("init.depth_scaled", net, torch.randint(0, 50, (2, 5)))
    small, plain = 0.02 / 6**0.5, 0.02
    for block, norm in zip(net.stack, norms, strict=True):
        for layer, expected in ((block.alpha, plain), (block.gamma, plain)):
            assert std(layer.weight) == pytest.approx(expected, rel=0.05)
        for layer, expected in ((block.beta, small), (block.delta, small)):
            assert std(layer.weight) == pytest.approx(expected, rel=0.05)
            assert layer.bias.count_nonzero() == 0
        assert all(torch.equal(v, norm[k]) for k, v in block.norm.state_dict().items())
    assert std(net.words.weight[1:]) == pytest.approx(0.02, rel=0.05)
    assert net.words.weight[0].count_nonzero() == 0 and net.head.weight is net.words.weight


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("called", [True, False])
def test_depth_scaled_of_torchs_own_encoder(norm_first: bool, called: bool) -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 128, norm_first=norm_first, batch_first=True)
    net = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    before = copy.deepcopy(net.state_dict())
    subject = apply("init.depth_scaled", net, torch.randn(2, 5, 64) if called else None)
    small = 0.02 / 8**0.5
    for block in net.layers:
        assert std(block.self_attn.in_proj_weight) == pytest.approx(0.02, rel=0.05)
        assert std(block.linear1.weight) == pytest.approx(0.02, rel=0.05)
        assert std(block.self_attn.out_proj.weight) == pytest.approx(small, rel=0.05)
        assert std(block.linear2.weight) == pytest.approx(small, rel=0.05)
    subject.undo()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_depth_scaled_needs_a_stream() -> None:
    for net, x in ((mlp([8, 8, 8]), batch(2, 8)), (stack(skip=0), batch(2, 8))):
        with pytest.raises(NotApplicable, match="residual stream"):
            apply("init.depth_scaled", net, x)
    with pytest.raises(NotApplicable, match="residual stream"):
        apply("init.depth_scaled", Language())  # no call, and names that say nothing


# -- Fixup ----------------------------------------------------------------------------------------


def test_fixup_makes_each_block_its_skip() -> None:
    net, x = stack(16), batch(32, 8)
    apply("init.fixup", net, x)
    for block in net[1]:
        assert torch.equal(block(x), x)
        assert block.a.bias.count_nonzero() == 0
    assert net(x).count_nonzero() == 0
    first = torch.cat([block.a.weight.flatten() for block in net[1]])
    assert std(first) == pytest.approx(16**-0.5 * 8**-0.5, rel=0.05)  # m = 2, and nothing feeds it
    assert std(net[0].weight) == pytest.approx(8**-0.5, rel=0.25)


@pytest.mark.parametrize("blocks", [4, 64])
def test_fixup_moves_by_the_same_at_every_depth(blocks: int) -> None:
    net, x, goal = stack(blocks).eval(), batch(64, 8), batch(64, 3, seed=1)
    apply("init.fixup", net, x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        loss = F.mse_loss(net(x), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after = goal.square().mean(), F.mse_loss(net(x), goal).detach()
    assert 0.8 * before < after < before


class Strided(nn.Module):
    """A ResNet's block: with a projection beside the branch where the width changes."""

    def __init__(self, a: int, b: int, depth: int = 2) -> None:
        super().__init__()
        widths = [a] + [b] * depth
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[k], widths[k + 1], 3, stride=1 + (a != b and k == 0), padding=1)
            for k in range(depth)
        )
        self.down = nn.Conv2d(a, b, 1, stride=2) if a != b else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for k, conv in enumerate(self.convs):
            y = conv(F.relu(y) if k else y)
        return F.relu(y + self.down(x))


def test_fixup_of_a_residual_net_in_stages() -> None:
    stages = [nn.Sequential(Strided(4, 4, 3), Strided(4, 4, 3)) for _ in range(2)]
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        *stages,
        nn.Sequential(Strided(4, 8, 3), Strided(8, 8, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    x = torch.randn(2, 3, 9, 9)
    apply("init.fixup", net, x)
    h = torch.randn(2, 4, 6, 6).relu()
    for block in (*net[1], *net[2]):
        assert torch.equal(block(h), h)
    wide = torch.randn(2, 8, 3, 3).relu()
    assert torch.equal(net[3][1](wide), wide)
    assert net[3][0].convs[2].weight.count_nonzero() > 0  # beside a projection: as outside
    assert net[6].weight.count_nonzero() == 0
    # Five branches of three layers: L^(-1 / 4). What feeds a first layer may be a ReLU or not.
    inner = torch.cat([b.convs[1].weight.flatten() for s in net[1:3] for b in s])
    assert std(inner) == pytest.approx(5**-0.25 * (2 / 36) ** 0.5, rel=0.08)


def test_fixup_of_attention_and_a_tied_head() -> None:
    net, x = Language(blocks=2), torch.randint(1, 50, (2, 5))
    apply("init.fixup", net, x)
    h = torch.randn(2, 5, 64)
    assert all(torch.equal(block(h)[0], h) for block in net.stack)
    assert net.words.weight.count_nonzero() > 0
    scaled = 4**-0.5 * 64**-0.5  # four branches of two layers each
    assert std(net.stack[0].alpha.weight) == pytest.approx(scaled, rel=0.05)

    layer = nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    apply("init.fixup", encoder, h[..., :16])
    assert torch.equal(encoder(h[..., :16]), h[..., :16])
    attention = encoder.layers[0].self_attn
    assert std(attention.in_proj_weight) == pytest.approx(4**-0.5 * 16**-0.5, rel=0.1)


def test_fixup_refuses() -> None:
    with pytest.raises(NotApplicable, match="batch"):
        apply("init.fixup", stack())
    with pytest.raises(NotApplicable, match="identity skip"):
        apply("init.fixup", stack(skip=0), batch(2, 8))
    with pytest.raises(NotApplicable, match="normalisation"):
        apply("init.fixup", stack(norm=True), batch(2, 8))
    net = stack()
    net[1][2].b.requires_grad_(False)
    with pytest.raises(NotApplicable, match="frozen"):
        apply("init.fixup", net, batch(2, 8))
    assert isinstance(net[1][0], Residual)
