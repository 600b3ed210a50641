"""Models with one layer or mode each that a replay must get right, and a step with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from replay_fixture import Made, network, usual, x


def dropout() -> Made:
    return usual(network(nn.Dropout(0.5), nn.AlphaDropout(0.2)))


def batch_norm() -> Made:
    return usual(network(nn.BatchNorm1d(8), nn.ReLU(inplace=True)))


def batch_norm_momentum_free() -> Made:
    return usual(network(nn.BatchNorm1d(8, momentum=None)))


def instance_norm() -> Made:
    layers = nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    return usual(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 2)), (8, 2, 6))


def random_relu() -> Made:
    return usual(network(nn.RReLU()))


def attention() -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return usual(nn.TransformerEncoder(layer, 2), (4, 5, 8))


# -- autocast --------------------------------------------------------------------------------------


def cast(cache: bool, model: nn.Module | None = None) -> Made:
    model = network(nn.Dropout(0.2)) if model is None else model

    def work(step: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
            loss = model(x()).square().mean()
        loss.backward()

    return model, work


class Twice(nn.Module):
    """Uses a weight twice in one forward, so that a cached cast of it adds up in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))


class Narrow(nn.Module):
    """Casts a part of itself, and another part not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = torch.tanh(self.a(x))
            with torch.autocast("cpu", enabled=False):
                x = torch.tanh(self.b(x.float()))
            return self.c(x)


def siamese_cast(together: bool, cache: bool = True) -> Made:
    """Two calls and one backward, in one context or in two."""
    model = Twice()

    def work(step: int) -> None:
        if together:
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
                made = [model(x()), model(x()), model(x())]
        else:
            made = []
            for _ in range(3):
                with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
                    made.append(model(x()))
        sum(y.float().square().mean() for y in made).backward()  # type: ignore[union-attr]

    return model, work


# -- checkpointing ---------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8))
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, **self.options)
        return self.head(x)


def checkpointed_whole(reentrant: bool) -> Made:
    model = network(nn.Dropout(0.3))

    def work(step: int) -> None:
        given = x().requires_grad_()
        checkpoint(model, given, use_reentrant=reentrant).square().mean().backward()

    return model, work


def checkpointed_cast(reentrant: bool) -> Made:
    return cast(True, Checkpointed(use_reentrant=reentrant))


class Packed(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rnn = kind(6, 8, num_layers=2, dropout=0.2)

    def forward(self, x: Any) -> torch.Tensor:
        return pad_packed_sequence(self.rnn(x)[0])[0]


def packed(kind: Callable[..., nn.Module]) -> Made:
    model = Packed(kind)

    def work(step: int) -> None:
        model(pack_sequence([x(5, 6), x(3, 6), x(2, 6)])).square().mean().backward()

    return model, work


class Recurrent(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


def recurrent_weight_norm() -> Made:
    return usual(Recurrent(parametrizations.weight_norm(nn.LSTM(6, 8), "weight_hh_l0")), (5, 4, 6))


class Tokens(nn.Module):
    def __init__(self, tied: bool = False, **options: Any) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 8, **options), nn.Linear(8, 11, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.table(tokens)))


def tokens(**options: Any) -> Made:
    model = Tokens(**options)

    def work(step: int) -> None:
        for _ in range(2):
            model(torch.randint(11, (4, 7))).square().mean().backward()

    return model, work


def normed(norm: Callable[[nn.Module], nn.Module]) -> Made:
    return usual(nn.Sequential(norm(nn.Linear(6, 8)), nn.Tanh(), norm(nn.Linear(8, 3))))


def siamese_spectral() -> Made:
    """The power iteration moves on at each of the calls."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh())

    def work(step: int) -> None:
        (model(x()).square().mean() + model(x()).sin().mean()).backward()

    return model, work


def lazy() -> Made:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    model(x())
    return usual(model)


def frozen_and_complex() -> Made:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turning = nn.Parameter(torch.randn(6, dtype=torch.complex64))
            self.wide = nn.Parameter(torch.randn(6, dtype=torch.float64))
            self.frozen = nn.Parameter(torch.randn(6, 3), requires_grad=False)
            self.unused = nn.Parameter(torch.randn(3))
            self.scalar = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x * self.turning).abs() * self.scalar + self.wide.float()) @ self.frozen

    return usual(Mixed())
