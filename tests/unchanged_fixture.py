"""Trainings in small for the tests that watching changes nothing: one for each kind of script."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

STEPS = 24
BAD = 20  # the gate knows what is usual from step 16 on
Step = Callable[[int], float]


class Case:
    """A training in progress: its modules, what one step does, and loose tensors."""

    def __init__(self, modules: list[nn.Module], step: Step) -> None:
        self.modules = modules
        self.step = step


def batch(step: int, spoil: str, shape: tuple[int, ...] = (16, 8)) -> torch.Tensor:
    """Random data; the batch of step BAD is spoilt as asked."""
    x = torch.randn(shape)
    if step == BAD and spoil == "spike":
        return x * 1000
    if step == BAD and spoil == "nan":
        x.view(-1)[3] = float("nan")
    return x


def labels(n: int = 16) -> torch.Tensor:
    return torch.randint(4, (n,))


def plain(model: nn.Module, spoil: str, shape: tuple[int, ...] = (16, 8), lr: float = 1e-3) -> Case:
    """The usual loop with Adam and cross-entropy over a model of four classes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch(i, spoil, shape)), labels(shape[0]))
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case([model], step)


def dropout(spoil: str) -> Case:
    layers = (nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 32), nn.Tanh())
    return plain(nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(32, 4)), spoil)


def convolution(spoil: str) -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    )
    return plain(model, spoil, (16, 1, 8, 8))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 12, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def recurrent(spoil: str) -> Case:
    return plain(Recurrent(), spoil, (16, 6, 4))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).mean(1))


def transformer(spoil: str) -> Case:
    return plain(Attention(), spoil, (16, 5, 8))


class Tied(nn.Module):
    """An embedding and an output that share one matrix, applied to random tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 8)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.randint(4, (x.shape[0],))
        return self.out(torch.tanh(self.hidden(self.embedding(tokens) + x)))


def tied(spoil: str) -> Case:
    return plain(Tied(), spoil)


class Moody(nn.Module):
    """Draws from all three generators, counts its calls and keeps its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.count = 0
        self.kept: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.calls += 1
        for block in self.blocks:
            if random.random() < 0.8 and np.random.rand() < 0.9:
                x = x + torch.tanh(block(x)) * torch.rand(())
        self.kept.append(self.count)
        self.last = x.detach()
        return self.head(x)


def moody(spoil: str) -> Case:
    return plain(Moody(), spoil)


def accumulation(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        total = 0.0
        for _ in range(4):
            loss = F.cross_entropy(model(batch(i, spoil)), labels()) / 4
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return Case([model], step)


def two_optimizers(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    first = torch.optim.SGD(model[0].parameters(), lr=0.01, momentum=0.9)
    second = torch.optim.Adam(model[2].parameters(), lr=1e-3)

    def step(i: int) -> float:
        model.zero_grad()
        loss = F.cross_entropy(model(batch(i, spoil)), labels())
        loss.backward()
        first.step()
        second.step()
        return loss.item()

    return Case([model], step)


def closure(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def step(i: int) -> float:
        x, y = batch(i, spoil), labels()

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(evaluate).item()  # type: ignore[arg-type]

    return Case([model], step)


class Straight(torch.autograd.Function):
    """Rounds forward, passes the gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient.clamp(-1, 1)


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(Straight.apply(torch.tanh(self.first(x))))


def custom_function(spoil: str) -> Case:
    return plain(Quantised(), spoil)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.2)) for _ in range(3)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def checkpoint_reentrant(spoil: str) -> Case:
    return plain(Checkpointed(True), spoil)


def checkpoint_saved(spoil: str) -> Case:
    return plain(Checkpointed(False), spoil)


def autocast(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(batch(i, spoil)), labels())
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case([model], step)


def scaler(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaling = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)

    def step(i: int) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(batch(i, spoil)), labels())
        scaling.scale(loss).backward()
        scaling.unscale_(optimizer)
        scaling.step(optimizer)
        scaling.update()
        return loss.item() + scaling.get_scale()

    return Case([model], step)


def functional(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        weights = {k: v * 0.99 for k, v in model.named_parameters()}
        optimizer.zero_grad()
        out = torch.func.functional_call(model, weights, (batch(i, spoil),))
        loss = F.cross_entropy(out, labels())
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case([model], step)


def adversarial(spoil: str) -> Case:
    maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 8))
    judge = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(16, 1))
    first = torch.optim.Adam(maker.parameters(), lr=1e-3)
    second = torch.optim.Adam(judge.parameters(), lr=1e-3)

    def step(i: int) -> float:
        real, fake = batch(i, spoil), maker(torch.randn(16, 4))
        second.zero_grad()
        wrong = F.softplus(judge(fake.detach())).mean() + F.softplus(-judge(real)).mean()
        wrong.backward()
        second.step()
        first.zero_grad()
        caught = F.softplus(-judge(fake)).mean()
        caught.backward()
        first.step()
        return wrong.item() + caught.item()

    return Case([maker, judge], step)


def by_hand(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def step(i: int) -> float:
        loss = F.cross_entropy(model(batch(i, spoil)), labels())
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad  # type: ignore[operator]
                p.grad = None
        return loss.item()

    return Case([model], step)


class Losing(nn.Module):
    """Computes its own loss and gives the logits as well, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def own_loss(spoil: str) -> Case:
    model = Losing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        loss = model(batch(i, spoil), labels=labels())["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Case([model], step)


def normalised(spoil: str) -> Case:
    """Reparametrised weights, the old way (hooks) and the new way (parametrisations)."""
    model = nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(8, 16)),
        nn.Tanh(),
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
        nn.Tanh(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(16, 4)),
    )
    return plain(model, spoil)


CASES: dict[str, Callable[[str], Case]] = {
    make.__name__: make
    for make in (
        dropout,
        convolution,
        recurrent,
        transformer,
        tied,
        moody,
        accumulation,
        two_optimizers,
        closure,
        custom_function,
        checkpoint_reentrant,
        checkpoint_saved,
        autocast,
        scaler,
        functional,
        adversarial,
        by_hand,
        own_loss,
        normalised,
    )
}
