"""The shattering probe against the kernels of wide networks, and what it leaves behind: nothing."""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surefoot
from surefoot.probes.shattering import shattering
from surefoot.theory.kernels import coherence, k0, k1


def plain(depth: int, width: int, normalized: bool, seed: int) -> nn.Sequential:
    """He-initialised ReLU layers without biases; the head is linear."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, *([nn.BatchNorm1d(width)] if normalized else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10, bias=False))


class Residual(nn.Module):
    """x + relu(bn(W x)), depth times, and a head."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width, bias=False))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)
        for block in self.blocks:
            nn.init.kaiming_normal_(block[2].weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def mean(depth: int, normalized: bool, epsilon: float, batch: int = 256) -> float:
    found = []
    for seed in range(3):
        model = plain(depth, 512, normalized, seed)
        found.append(shattering(model, [torch.randn(batch, 512)], epsilon=epsilon).coherence)
    return sum(found) / 3


@pytest.mark.parametrize(
    ("depth", "normalized", "epsilon", "tolerance"),
    [
        (10, False, 0.1, 0.03),
        (5, True, 0.01, 0.02),
        (10, True, 0.01, 0.02),
        (20, True, 0.01, 0.05),
    ],
)
def test_coherence_is_that_of_the_kernels(
    depth: int, normalized: bool, epsilon: float, tolerance: float
) -> None:
    expected = coherence(epsilon, depth, normalized=normalized)
    assert mean(depth, normalized, epsilon) == pytest.approx(expected, abs=tolerance)


def test_fifty_layers_with_batch_norm_are_white_and_with_skips_are_not() -> None:
    x = torch.randn(256, 256)
    seen = shattering(plain(50, 256, True, 0), [x])
    assert abs(seen.coherence) < 0.05
    assert seen.white
    torch.manual_seed(0)
    skips = shattering(Residual(50, 256), [x])
    assert skips.coherence == pytest.approx(0.973, abs=0.03)
    assert not skips.white


def test_fifty_layers_without_normalisation_collapse_and_do_not_shatter() -> None:
    seen = shattering(plain(50, 256, False, 0), [torch.randn(256, 256)])
    assert seen.coherence > 0.7
    assert not seen.white


def test_white_noise_is_white() -> None:
    """The null: gradients that are independent at every point, thirty times."""

    class White(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum(1, keepdim=True)

        @staticmethod
        def backward(ctx, g):
            return torch.randn(len(g), 64, generator=generator) * g.abs()

    generator = torch.Generator().manual_seed(0)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return White.apply(x)

    found = [shattering(Model(), [torch.randn(128, 64)], seed=s) for s in range(30)]
    assert sum(s.white for s in found) == 30
    scores = [s.coherence * math.sqrt(128 * 64) for s in found]
    assert abs(sum(scores) / 30) < 4 / math.sqrt(30)


def test_the_curve_falls_from_the_output_to_the_input() -> None:
    model = plain(20, 256, True, 0)
    names = [str(3 * k + 2) for k in range(20)]
    seen = shattering(model, [torch.randn(128, 256)], along=names)
    curve = [value for _, value in seen.curve]
    assert [name for name, _ in seen.curve] == names
    assert curve[-1] > 0.99  # the last hidden layer: only the head lies behind it
    assert curve[0] < 0.75
    assert all(a <= b + 0.02 for a, b in pairwise(curve))


class Tokens(nn.Module):
    """An embedding and a head."""

    def __init__(self, depth: int, normalized: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 256)
        self.rest = plain(depth, 256, normalized, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.embed(x).mean(1))


def test_of_tokens_it_is_the_parameters_that_are_moved() -> None:
    x = torch.randint(0, 50, (128, 12))
    smooth, rough = (shattering(Tokens(d, n), [x]) for d, n in ((2, False), (40, True)))
    assert smooth.of == rough.of == "parameters"
    assert smooth.coherence > 0.98
    assert rough.coherence < 0.3


@pytest.mark.parametrize("make", [lambda: Residual(3, 16), lambda: Tokens(2, True)])
def test_nothing_is_left_behind(make) -> None:
    torch.manual_seed(0)
    model = make().train()
    model.add_module("drop", nn.Dropout(0.5))
    x = torch.randint(0, 50, (40, 6)) if isinstance(model, Tokens) else torch.randn(40, 16)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rng, kept = torch.get_rng_state(), x.clone()
    with torch.no_grad():
        first = shattering(model, [x])
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert shattering(model, [x]) == first  # the same seed, the same answer


def test_what_a_forward_writes_is_undone_and_hooks_of_others_stay_silent() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.calls, self.seen = nn.Linear(4, 2), 0, [0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.seen.append(1)
            return self.linear(x)

    model, heard = Counting(), []
    model.linear.register_forward_hook(lambda *_: heard.append(1))
    shattering(model, [torch.randn(32, 4)])
    assert (model.calls, model.seen, heard) == (0, [0], [])


def test_dropout_does_not_pass_for_shattering() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 256), nn.Tanh(), nn.Dropout(0.5), nn.Linear(256, 4))
    assert shattering(model, [torch.randn(64, 32)]).coherence > 0.99


def test_small_batches_are_called_unreliable() -> None:
    model = nn.Linear(4, 2)
    assert not shattering(model, [torch.randn(8, 4)]).reliable
    assert shattering(model, [torch.randn(32, 4)]).reliable


def test_what_cannot_be_probed_is_refused_in_words() -> None:
    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach() * torch.ones(1, requires_grad=True)

    with pytest.raises(ValueError, match="no gradient reaches the input"):
        shattering(Cut(), [torch.randn(4, 2)])
    with pytest.raises(ValueError, match="expected an output that depends"):
        shattering(nn.Flatten(), [torch.zeros(4, 2, dtype=torch.long)])


def test_the_kernels_are_the_integrals_that_they_stand_for() -> None:
    generator = torch.Generator().manual_seed(0)
    u, w = torch.randn(2, 4_000_000, generator=generator, dtype=torch.float64)
    for c in (-0.7, 0.0, 0.4, 0.95):
        v = c * u + math.sqrt(1 - c * c) * w
        both = ((u > 0) & (v > 0)).double().mean() / 0.5
        assert k0(c) == pytest.approx(float(both), abs=2e-3)
        product = (F.relu(u) * F.relu(v)).mean() / 0.5
        assert k1(c) == pytest.approx(float(product), abs=3e-3)


class Stubborn(nn.Module):
    """Dropout, batch norm and a counter, on labels that cannot be learned."""

    def __init__(self) -> None:
        super().__init__()
        layers = [m for _ in range(20) for m in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(32, 2))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.body(x)


def stubborn_run(watched: bool, forensics: bool = True) -> tuple[Any, ...]:
    torch.manual_seed(0)
    model = Stubborn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch = surefoot.watch(model, optimizer, forensics=forensics) if watched else None
    losses = []
    with watch or contextlib.nullcontext():
        for _ in range(40):
            x, y = torch.randn(64, 32), torch.randint(2, (64,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    seen = watch._session.trainings[0].ledger.shattering if watch is not None else []
    return losses, model.state_dict(), model.calls, torch.get_rng_state(), seen


def test_a_run_that_fails_to_learn_is_asked_once_and_nothing_is_changed() -> None:
    bare, watched = stubborn_run(False), stubborn_run(True)
    assert [step for step, _ in watched[4]] == [32]
    assert watched[0] == bare[0]
    assert all(torch.equal(watched[1][k], v) for k, v in bare[1].items())
    assert watched[2] == bare[2]
    assert torch.equal(watched[3], bare[3])


def test_the_question_can_be_forbidden() -> None:
    assert not stubborn_run(True, forensics=False)[4]


def test_a_run_that_learns_is_not_asked() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    x = torch.randn(64, 4)
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(200):
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
    assert not watch._session.trainings[0].ledger.shattering
