"""Parts of networks on vectors: gates, growing columns, tied and unrolled layers, own gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Part = Callable[[], nn.Module]


class Gate(nn.Module):
    """x + out(act(a(x)) * b(x)): a gated unit behind a norm."""

    def __init__(self, width: int, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.act = nn.Linear(width, width), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return x + self.out(self.act(self.a(h)) * self.b(h))


class Column(nn.Module):
    """Each layer reads everything before it: layers.i, head."""

    def __init__(self, inputs: int, depth: int, growth: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs + i * growth, growth) for i in range(depth))
        self.head = nn.Linear(inputs + depth * growth, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.leaky_relu(layer(x), 0.1)], 1)
        return self.head(x)


class Steer(nn.Module):
    """A condition scales and shifts the hidden units: main1, main2, film, head."""

    def __init__(self, inputs: int, known: int, width: int, out: int) -> None:
        super().__init__()
        self.known = known
        self.main1, self.main2 = nn.Linear(inputs - known, width), nn.Linear(width, width)
        self.film = nn.Linear(known, 2 * width)
        self.head = nn.Linear(width, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.film(x[:, -self.known :]).chunk(2, 1)
        h = F.silu(self.main1(x[:, : -self.known]))
        return self.head(F.silu(self.main2(h) * (1 + scale) + shift))


class Writer(nn.Module):
    """A network that writes, for each sample, the weights by which another part answers."""

    def __init__(self, inputs: int, known: int, width: int, out: int) -> None:
        super().__init__()
        self.known, self.width, rest = known, width, inputs - known
        self.code = nn.Sequential(nn.Linear(known, 16), nn.Tanh())
        self.first, self.second = nn.Linear(16, rest * width), nn.Linear(16, width * out)
        self.shape = (rest, out)
        for m in (self.first, self.second):
            nn.init.normal_(m.weight, std=0.5 / math.sqrt(rest))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = self.code(x[:, -self.known :])
        one = self.first(code).view(-1, self.shape[0], self.width)
        two = self.second(code).view(-1, self.width, self.shape[1])
        h = F.gelu(torch.einsum("ni,niw->nw", x[:, : -self.known], one))
        return torch.einsum("nw,nwo->no", h, two)


class Rising(nn.Module):
    """Never falls with its inputs: weights are made positive before use."""

    def __init__(self, inputs: int, width: int, out: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(inputs, width), nn.Linear(width, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.linear(x, F.softplus(self.one.weight) / 8, self.one.bias)
        return F.linear(F.elu(h), F.softplus(self.two.weight) / 8, self.two.bias)


class Unrolled(nn.Module):
    """Iterated shrinkage with learned matrices: a sparse code, then a dictionary."""

    def __init__(self, inputs: int, code: int, rounds: int) -> None:
        super().__init__()
        self.read = nn.Linear(inputs, code)
        self.mix = nn.ModuleList(nn.Linear(code, code, bias=False) for _ in range(rounds))
        self.threshold = nn.Parameter(torch.full((rounds,), 0.1))
        self.dictionary = nn.Linear(code, inputs)
        for m in self.mix:
            nn.init.orthogonal_(m.weight, gain=0.7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = self.read(x)
        z = torch.zeros_like(base)
        for layer, t in zip(self.mix, self.threshold, strict=True):
            h = base + layer(z)
            z = h.sign() * F.relu(h.abs() - t)
        return self.dictionary(z)


class Settled(nn.Module):
    """The same layer again and again until nothing changes any more; once: x is read only once."""

    def __init__(
        self, inputs: int, width: int, out: int, rounds: int, gain: float, once: bool = False
    ) -> None:
        super().__init__()
        self.read, self.back = nn.Linear(inputs, width), nn.Linear(width, width, bias=False)
        self.head, self.rounds = nn.Linear(width, out), rounds
        nn.init.orthogonal_(self.back.weight, gain=gain)
        self.act: Callable[[torch.Tensor], torch.Tensor] = torch.tanh
        self.once = once

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = self.read(x)
        z = base if self.once else torch.zeros_like(base)
        for _ in range(self.rounds):
            z = self.act(self.back(z) if self.once else self.back(z) + base)
        return self.head(z)


class Step(torch.autograd.Function):
    """A spike where the potential is positive; backward a triangle about zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * F.relu(1 - x.abs())


class Spiking(nn.Module):
    """Leaky neurons that fire and are reset, over `ticks` moments; read is the mean voltage."""

    def __init__(self, inputs: int, width: int, out: int, ticks: int) -> None:
        super().__init__()
        self.enter, self.leave, self.ticks = nn.Linear(inputs, width), nn.Linear(width, out), ticks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drive = self.enter(x)
        voltage = torch.zeros_like(drive)
        total = 0.0
        for _ in range(self.ticks):
            voltage = 0.8 * voltage + drive
            spike = Step.apply(voltage - 1)
            voltage = voltage - spike.detach()
            total = total + self.leave(spike)
        return total / self.ticks


class Turned(torch.autograd.Function):
    """The identity, whose gradient is turned round and shrunk."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * gradients[0], None


class Keep(nn.Module):
    """Only the k largest of each sample go on."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        least = x.topk(self.k, dim=-1).values[..., -1:]
        return x * (x >= least)


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Tokens(nn.Module):
    """An embedding of every token, side by side or averaged, and a perceptron: embed, net."""

    def __init__(self, size: int, dim: int, count: int, width: int, out: int, norm: bool) -> None:
        super().__init__()
        self.mean = count == 0
        self.embed = nn.Embedding(size, dim)
        self.norm = nn.LayerNorm(dim * (count or 1)) if norm else nn.Identity()
        self.net = nn.Sequential(
            nn.Linear(dim * (count or 1), width), nn.ReLU(), nn.Linear(width, out)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        return self.net(self.norm(h.mean(1) if self.mean else h.flatten(1)))


def tokens(dim: int = 8, width: int = 32, mean: bool = False, norm: bool = False) -> Build:
    """Embedded categories and a perceptron."""
    return lambda t: Tokens(t.size, dim, 0 if mean else t.x.shape[1], width, t.out, norm)


class Pairs(nn.Module):
    """A factorisation machine over tokens: a bias each, and the products of their vectors."""

    def __init__(self, task: Task, dim: int, std: float) -> None:
        super().__init__()
        self.bias, self.vectors = nn.Embedding(task.size, 1), nn.Embedding(task.size, dim)
        nn.init.normal_(self.vectors.weight, std=std)
        nn.init.zeros_(self.bias.weight)
        self.base = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.vectors(x)
        cross = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True)
        return self.base + self.bias(x).sum(1) + cross
