"""Networks on vectors as their users write them; each function returns a builder for a task."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Function = Callable[[torch.Tensor], torch.Tensor]
Part = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


class Numbered(nn.Module):
    """fc1, fc2 ... and out, with norm1 ... before a functional activation; `final` is last.

    `after` is called with what each layer gives and its number; users cut and probe there.
    """

    def __init__(self, sizes: list[int], act: Function, norm: Norm | None, final: Function) -> None:
        super().__init__()
        self.count, self.act, self.final = len(sizes) - 2, act, final
        self.after: Callable[[int, torch.Tensor], torch.Tensor] = lambda i, h: h
        for i in range(1, self.count + 1):
            setattr(self, f"fc{i}", nn.Linear(sizes[i - 1], sizes[i]))
            if norm:
                setattr(self, f"norm{i}", norm(sizes[i]))
        self.normed = norm is not None
        self.out = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, self.count + 1):
            x = getattr(self, f"fc{i}")(x)
            x = getattr(self, f"norm{i}")(x) if self.normed else x
            x = self.after(i, self.act(x))
        return self.final(self.out(x))


def numbered(
    *widths: int,
    act: Function = F.relu,
    norm: Norm | None = None,
    final: Function = lambda x: x,
) -> Build:
    """A perceptron with functional activations: fc1 ..., norm1 ..., out."""
    return lambda t: Numbered([t.x.shape[-1], *widths, t.out], act, norm, final)


def sequential(*widths: int, act: Part = nn.ReLU, drop: float = 0.0, bias: bool = True) -> Build:
    """An nn.Sequential with named parts: lin0, act0, drop0, ..., last."""

    def build(task: Task) -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (a, b) in enumerate(pairwise([task.x.shape[-1], *widths])):
            parts[f"lin{i}"] = nn.Linear(a, b, bias=bias)
            parts[f"act{i}"] = act()
            if drop:
                parts[f"drop{i}"] = nn.Dropout(drop)
        parts["last"] = nn.Linear(widths[-1], task.out)
        return nn.Sequential(parts)

    return build


class Branch(nn.Module):
    """x + scale * down(act(up(norm(x))))."""

    def __init__(self, width: int, act: nn.Module, norm: nn.Module, scale: float) -> None:
        super().__init__()
        self.norm, self.act, self.scale = norm, act, scale
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(self.act(self.up(self.norm(x))))


class Trunk(nn.Module):
    """stem, body.i, top, head; the body's parts keep their width."""

    def __init__(self, inputs: int, parts: list[nn.Module], width: int, out: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.body = nn.ModuleList(parts)
        self.top: nn.Module = nn.Identity()
        self.head = nn.Linear(width, out)
        self.finish: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for part in self.body:
            x = part(x)
        return self.finish(self.head(self.top(x)))


def trunk(part: Callable[[int, int], nn.Module], depth: int, width: int = 32) -> Build:
    """stem, `depth` parts made by part(width, i), head."""
    return lambda t: Trunk(t.x.shape[-1], [part(width, i) for i in range(depth)], width, t.out)


def residual(
    depth: int,
    width: int = 32,
    act: Part = nn.GELU,
    norm: Norm = nn.LayerNorm,
    scale: float = 1.0,
) -> Build:
    """Residual branches of two layers each: stem, body.i.{norm,up,act,down}, head."""
    return trunk(lambda w, i: Branch(w, act(), norm(w), scale), depth, width)


class Unit(nn.Module):
    """act(norm(lin(x))), added to x where `skip` says so."""

    def __init__(self, width: int, act: Function, norm: nn.Module, skip: bool) -> None:
        super().__init__()
        self.lin, self.norm, self.act, self.skip = nn.Linear(width, width), norm, act, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.norm(self.lin(x)))
        return x + h if self.skip else h


def units(
    depth: int,
    width: int = 32,
    act: Function = F.relu,
    norm: Callable[[int], nn.Module] = lambda w: nn.Identity(),
    skip: bool = False,
) -> Build:
    """One layer after the other: stem, body.i.{lin,norm}, head."""
    return trunk(lambda w, i: Unit(w, act, norm(w), skip), depth, width)


class Cross(nn.Module):
    """x0 * (a linear map of x) + x, as in a deep and cross network."""

    def __init__(self, inputs: int, depth: int, out: int, deep: int) -> None:
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(inputs, inputs) for _ in range(depth))
        self.deep = nn.Sequential(nn.Linear(inputs, deep), nn.ReLU(), nn.Linear(deep, deep))
        self.head = nn.Linear(inputs + deep, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for layer in self.cross:
            h = x * layer(h) + h
        return self.head(torch.cat([h, self.deep(x)], 1))


def cross(depth: int = 2, deep: int = 32) -> Build:
    """Deep and cross: cross.i, deep, head."""
    return lambda t: Cross(t.x.shape[-1], depth, t.out, deep)


class Bumps(nn.Module):
    """Gaussian bumps with learned places and widths, and a linear map of them."""

    def __init__(self, inputs: int, count: int, out: int, width: float) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(count, inputs))
        self.width = nn.Parameter(torch.full((count,), math.log(width)))
        self.head = nn.Linear(count, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = (x[:, None] - self.places).square().sum(-1)
        return self.head(torch.exp(-far / (2 * (2 * self.width).exp())))


class Splines(nn.Module):
    """A sum of learned functions of each input, on a grid of bumps, beside a linear map."""

    def __init__(self, inputs: int, out: int, grid: int = 8) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, out)
        self.shape = nn.Parameter(torch.randn(inputs * grid, out) * 0.1 / math.sqrt(inputs))
        self.knots: torch.Tensor
        self.register_buffer("knots", torch.linspace(-2, 2, grid))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bumps = torch.exp(-((x[..., None] - self.knots) ** 2) * 3)
        return self.base(F.silu(x)) + bumps.flatten(-2) @ self.shape


def kan(*widths: int) -> Build:
    """Layers of learned functions: "0", "1" ..."""

    def build(task: Task) -> nn.Module:
        sizes = pairwise([task.x.shape[-1], *widths, task.out])
        return nn.Sequential(*(Splines(a, b) for a, b in sizes))

    return build


class Trees(nn.Module):
    """Soft oblivious trees: each level asks one soft question of all samples."""

    def __init__(self, inputs: int, out: int, count: int, depth: int) -> None:
        super().__init__()
        self.ask = nn.Linear(inputs, count * depth)
        self.leaves = nn.Parameter(torch.randn(count, 2**depth, out) * 0.1)
        self.shape = (count, depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        yes = self.ask(x).view(-1, *self.shape).sigmoid()
        share = yes.new_ones(len(x), self.shape[0], 1)
        for level in range(self.shape[1]):
            y = yes[:, :, level, None]
            share = torch.cat([share * y, share * (1 - y)], -1)
        return torch.einsum("nkl,klo->no", share, self.leaves)


class Experts(nn.Module):
    """gate, experts.i: the best `top` of them answer, weighted; `balance` is kept for the loss."""

    def __init__(self, inputs: int, out: int, count: int, top: int, act: Part) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, 24), act(), nn.Linear(24, out)) for _ in range(count)
        )
        self.top, self.balance = top, torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.gate(x).softmax(1)
        weight, chosen = p.topk(self.top, 1)
        mask = torch.zeros_like(p).scatter(1, chosen, weight / weight.sum(1, keepdim=True))
        self.balance = len(self.experts) * (p.mean(0) * (mask > 0).float().mean(0)).sum()
        answers = torch.stack([e(x) for e in self.experts], 1)
        return (mask[:, :, None] * answers).sum(1)


def experts(count: int = 6, top: int = 2, act: Part = nn.SiLU) -> Build:
    """A sparse mixture of experts."""
    return lambda t: Experts(t.x.shape[-1], t.out, count, top, act)


class Waves(nn.Module):
    """A sinusoidal representation network: lin0 ..., last; sin(omega x) between."""

    def __init__(self, inputs: int, width: int, depth: int, out: int, omega: float) -> None:
        super().__init__()
        self.omega, self.depth = omega, depth
        for i in range(depth):
            lin = nn.Linear(width if i else inputs, width)
            bound = math.sqrt(6 / width) / omega if i else 1 / inputs
            nn.init.uniform_(lin.weight, -bound, bound)
            self.add_module(f"lin{i}", lin)
        self.last = nn.Linear(width, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.depth):
            x = torch.sin(self.omega * getattr(self, f"lin{i}")(x))
        return self.last(x)


def waves(width: int = 48, depth: int = 3, omega: float = 20.0) -> Build:
    """A SIREN."""
    return lambda t: Waves(t.x.shape[-1], width, depth, t.out, omega)


class Spectrum(nn.Module):
    """Random frequencies, fixed: sine and cosine of them, then a network."""

    def __init__(self, inputs: int, count: int, scale: float, net: nn.Module) -> None:
        super().__init__()
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", torch.randn(inputs, count) * scale)
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phase = x @ self.frequencies
        return self.net(torch.cat([phase.sin(), phase.cos()], -1))


def spectrum(count: int = 32, scale: float = 3.0, width: int = 48) -> Build:
    """Fourier features in front of a small perceptron."""
    return lambda t: Spectrum(
        t.x.shape[-1],
        count,
        scale,
        nn.Sequential(nn.Linear(2 * count, width), nn.ReLU(), nn.Linear(width, t.out)),
    )
