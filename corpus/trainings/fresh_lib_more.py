"""Loops that are not plain: equations, invertible maps, contrast with a queue."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings import tasks
from corpus.trainings.fresh_lib_made import stepped
from corpus.trainings.fresh_lib_tasks import moons
from corpus.trainings.loops import centroids
from corpus.trainings.tasks import measure

Act = Callable[[], nn.Module]
Tensor = torch.Tensor


class Field(nn.Module):
    """layers.i and act between them: what a physics-informed network usually is."""

    def __init__(self, inputs: int, width: int, depth: int, act: Act) -> None:
        super().__init__()
        ends = [inputs, *[width] * depth, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(ends))
        self.act, self.out = act(), nn.Identity()
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.out(self.layers[-1](x))


def grad(u: Tensor, x: Tensor) -> Tensor:
    """Slopes of u at x, to be derived again."""
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def poisson(net: nn.Module, unit: float, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """A membrane over a square: the equation's residual and the boundary's."""
    x = (unit * torch.rand(96, 2, generator=dice)).requires_grad_()
    g = grad(net(x), x)
    curved = grad(g[:, 0], x)[:, 0] + grad(g[:, 1], x)[:, 1]
    source = (math.pi * x.detach() / unit).sin().prod(1)
    side = unit * torch.rand(64, 2, generator=dice)
    side[torch.arange(64), torch.arange(64) % 2] = unit * (torch.arange(64) // 2 % 2).float()
    return unit**2 * curved / (2 * math.pi**2) + source, net(side)[:, 0]


def driven(net: nn.Module, unit: float, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """A driven decay: u' + 2 u = 4 sin 5 t, and where it begins."""
    t = (unit * torch.rand(64, 1, generator=dice)).requires_grad_()
    u = net(t)
    wrong = unit * grad(u, t) + 2 * u - 4 * (5 * t.detach() / unit).sin()
    return wrong[:, 0] / 4, net(torch.zeros(1, 1))[:, 0] - 1


def pinn(
    seed: int,
    *,
    kind: Callable[..., tuple[Tensor, Tensor]] = poisson,
    width: int = 32,
    depth: int = 3,
    act: Act = nn.Tanh,
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    unit: float = 1.0,
    weights: tuple[float, float] = (1.0, 1.0),
    of: Callable[[Tensor], Tensor] = lambda r: r.square().mean(),
    zero: bool = True,
    clip: float | None = None,
    steps: int = 250,
) -> float:
    """Solve an equation on a field that is `unit` wide; LBFGS gets a closure on fixed points."""
    torch.manual_seed(seed)
    net = Field(2 if kind is poisson else 1, width, depth, act)
    surgery(net)
    motor = optimizer(net.parameters())
    dice = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        inside, edge = kind(net, unit, dice)
        return weights[0] * of(inside) + weights[1] * of(edge)

    for _ in range(steps):
        if isinstance(motor, torch.optim.LBFGS):
            state = dice.get_state()

            def again() -> Tensor:
                dice.set_state(state.clone())  # noqa: B023
                motor.zero_grad()
                value = loss()
                value.backward()
                return value

            motor.step(again)
        else:
            stepped(motor, loss(), net, zero, clip)
    line = torch.linspace(0, 1, 40)
    if kind is poisson:
        x = torch.cartesian_prod(line, line)
        truth = (math.pi * x).sin().prod(1)
    else:
        x = line[:, None]
        waves = (8 * (5 * line).sin() - 20 * (5 * line).cos()) / 29
        truth = 49 / 29 * (-2 * line).exp() + waves
    with torch.no_grad():
        return measure("squares", net(unit * x), truth[:, None])


class Half(nn.Module):
    """One coupling of RealNVP: s and t from the half that stays."""

    def __init__(self, width: int, act: Act, bound: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.s = nn.Sequential(nn.Linear(1, width), act(), nn.Linear(width, 1))
        self.t = nn.Sequential(nn.Linear(1, width), act(), nn.Linear(width, 1))
        self.bound = bound

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x[:, :1], x[:, 1:]
        s = self.bound(self.s(a))
        return torch.cat([b * s.exp() + self.t(a), a], 1), s[:, 0]


def nvp(
    seed: int,
    *,
    data: str = "moons",
    depth: int = 6,
    width: int = 32,
    act: Act = nn.Tanh,
    bound: Callable[[Tensor], Tensor] = torch.tanh,
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    scale: float = 1.0,
    reduce: Callable[[Tensor], Tensor] = torch.mean,
    clip: float | None = None,
    zero: bool = True,
    steps: int = 200,
) -> float:
    """RealNVP on points; how much of what it could tell beyond a normal it does not tell (by 1.2
    nats), from 1 at none."""
    torch.manual_seed(seed)
    x = moons(data) * scale
    net = nn.ModuleList(Half(width, act, bound) for _ in range(depth))
    surgery(net)
    motor = optimizer(net.parameters())

    def surprise(z: Tensor) -> Tensor:
        total = torch.zeros(len(z))
        for layer in net:
            z, log = layer(z)
            total = total + log
        return 0.5 * z.square().sum(1) + math.log(2 * math.pi) - total

    for step, pair in enumerate(batches(x, x, 96, steps, seed)):
        stepped(motor, reduce(surprise(poison(step, *pair)[0])), net, zero, clip)
    with torch.no_grad():
        told = float(surprise(x).mean()) - 2 * math.log(scale)
    return 1 - (2 * 1.4189 - told) / 1.2


class Encoder(nn.Module):
    """backbone and projector, as in SimCLR and MoCo."""

    def __init__(self, width: int, act: Act, depth: int, norm: bool) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for i in range(depth):
            parts += [nn.Linear(64 if i == 0 else width, width)]
            parts += [nn.BatchNorm1d(width)] if norm else []
            parts += [act()]
        self.backbone = nn.Sequential(*parts)
        self.projector = nn.Sequential(nn.Linear(width, width), act(), nn.Linear(width, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))


def view(x: Tensor) -> Tensor:
    """Noise, and a few pixels hidden."""
    return (x + 0.3 * torch.randn_like(x)) * (torch.rand_like(x) > 0.15)


def moco(
    seed: int,
    *,
    width: int = 64,
    act: Act = nn.ReLU,
    depth: int = 2,
    norm: bool = False,
    labels: bool = False,
    heat: float = 0.2,
    unit: Callable[[Tensor], Tensor] = lambda z: F.normalize(z, dim=1),
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    factor: float = 1.0,
    mixed: torch.dtype | None = None,
    zero: bool = True,
    cut: bool = False,
    steps: int = 150,
) -> float:
    """Momentum contrast with a queue of 256 keys, or (labels) supervised contrast in the batch."""
    torch.manual_seed(seed)
    data = tasks.digits()
    query = Encoder(width, act, depth, norm)
    surgery(query)
    key = copy.deepcopy(query).requires_grad_(False)
    motor = optimizer(query.parameters())
    queue = F.normalize(torch.randn(256, 24), dim=1)
    for step, pair in enumerate(batches(data.x, data.y, 64, steps, seed)):
        xb, yb = poison(step, *pair)
        q = unit(query(view(xb)))
        q = q.detach().requires_grad_() if cut else q
        if labels:
            own = yb[:, None] == yb
            own.fill_diagonal_(False)
            scores = (q @ q.T / heat).masked_fill(torch.eye(64, dtype=torch.bool), -1e9)
            logs = scores.log_softmax(1)
            loss = -((logs * own).sum(1) / own.sum(1).clamp_min(1)).mean()
        else:
            with torch.no_grad():
                k = unit(key(view(xb)))
            scores = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / heat
            loss = F.cross_entropy(scores, torch.zeros(64, dtype=torch.long))
            queue = torch.cat([k, queue])[:256]
        stepped(motor, factor * loss, query, zero, None)
        with torch.no_grad():
            for a, b in zip(key.parameters(), query.parameters(), strict=True):
                a.lerp_(b, 0.05)
    if not all(torch.isfinite(p).all() for p in query.parameters()):
        return float("nan")
    return centroids(query, data.x, data.y)
