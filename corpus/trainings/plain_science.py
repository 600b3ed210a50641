"""Trainings of the sciences: equations, trajectories, survival, rankings, links of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings import plain_tasks
from corpus.trainings.loops import descend
from corpus.trainings.plain_loops import Scaling, chunks

Tensor = torch.Tensor
Part = Callable[[], nn.Module]


def field(inputs: int, width: int, depth: int, act: Part) -> nn.Sequential:
    """A smooth function: "0", "1", ... as in most scripts on equations."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(width if i else inputs, width), act()]
    return nn.Sequential(*parts, nn.Linear(width, 1))


def slope(u: Tensor, x: Tensor) -> Tensor:
    """The derivative of u along x, to be derived again."""
    return torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True)[0]


def swing(net: nn.Module, unit: float) -> tuple[Tensor, Tensor]:
    """u'' + 4 u = 0 from rest at 1."""
    t = torch.linspace(0, 3, 64)[:, None].requires_grad_()
    u = net(t * unit)
    inside = slope(slope(u, t), t) + 4 * u
    start = torch.zeros(1, 1).requires_grad_()
    u0 = net(start * unit)
    return inside.square().mean(), (u0 - 1).square().mean() + slope(u0, start).square().mean()


def warmth(net: nn.Module, unit: float) -> tuple[Tensor, Tensor]:
    """u_t = u_xx / 10 between cold ends, from a sine."""
    p = torch.rand(96, 2).requires_grad_()
    u = net(p * unit)
    first = slope(u, p)
    inside = first[:, :1] - 0.1 * slope(first[:, 1:], p)[:, 1:]
    x, t = torch.rand(48, 1), torch.rand(48, 1)
    begin = net(torch.cat([torch.zeros_like(x), x], 1) * unit) - torch.sin(torch.pi * x)
    ends = [net(torch.cat([t, torch.full_like(t, e)], 1) * unit) for e in (0.0, 1.0)]
    edge = begin.square().mean() + sum(e.square().mean() for e in ends)
    return inside.square().mean(), edge


def load(net: nn.Module, unit: float) -> tuple[Tensor, Tensor]:
    """-u'' = pi^2 sin(pi x) by its energy, which ends below zero, with soft ends."""
    x = torch.linspace(0, 1, 97)[:, None].requires_grad_()
    u = net(x * unit)
    energy = 0.5 * slope(u, x).square() - torch.pi**2 * torch.sin(torch.pi * x) * u
    ends = net(torch.tensor([[0.0], [1.0]]) * unit)
    return energy.mean(), ends.square().mean()


EQUATIONS: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], Tensor, Scaling]] = {
    "swing": (swing, torch.linspace(0, 3, 200)[:, None], lambda t: torch.cos(2 * t)),
    "warmth": (
        warmth,
        torch.cartesian_prod(torch.linspace(0, 1, 20), torch.linspace(0, 1, 20)),
        lambda p: (-0.1 * torch.pi**2 * p[:, :1]).exp() * torch.sin(torch.pi * p[:, 1:]),
    ),
    "load": (load, torch.linspace(0, 1, 200)[:, None], lambda x: torch.sin(torch.pi * x)),
}


def physics(
    seed: int,
    *,
    kind: str = "swing",
    width: int = 32,
    depth: int = 2,
    act: Part = nn.Tanh,
    weight: float = 10.0,
    inside: float = 1.0,
    unit: float = 1.0,
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    steps: int = 300,
) -> float:
    """A network that must obey an equation; its distance from the true solution.

    weight: of the edges; inside: of the equation; unit: in which places are told to the network.
    """
    torch.manual_seed(seed)
    terms, places, truth = EQUATIONS[kind]
    net = field(places.shape[1], width, depth, act)
    surgery(net)
    motor = optimizer(net.parameters())
    plan = schedule(motor) if schedule else None

    def again() -> Tensor:
        motor.zero_grad()
        middle, edge = terms(net, unit)
        loss = inside * middle + weight * edge
        loss.backward()
        return loss

    for _ in range(steps):
        motor.step(again)
        if plan is not None:
            plan.step()
    with torch.no_grad():
        y = truth(places)
        return float((net(places * unit) - y).square().mean() / y.var())


class Drift(nn.Module):
    """The speed of a state: first, second; with the moment as one more input."""

    def __init__(self, size: int, width: int, act: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(size + 1, width), nn.Linear(width, size)
        self.act = act

    def forward(self, z: Tensor, t: float) -> Tensor:
        return self.second(self.act(self.first(F.pad(z, (0, 1), value=t))))


def trajectories(
    seed: int,
    *,
    width: int = 32,
    act: Part = nn.Tanh,
    hop: float = 0.2,
    scheme: str = "runge",
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    scale_input: Scaling = lambda x: x,
    sum_loss: bool = False,
    clip: float | None = None,
    steps: int = 60,
) -> float:
    """A differential equation learned from how 142 countries went on from 1952."""
    torch.manual_seed(seed)
    data = scale_input(plain_tasks.histories())
    net = Drift(3, width, act())
    surgery(net)
    motor = optimizer(net.parameters())

    def run(z: Tensor) -> Tensor:
        seen = []
        for i in range(11):
            t = i / 11
            k1 = net(z, t)
            if scheme == "runge":
                k2 = net(z + hop / 2 * k1, t)
                k3 = net(z + hop / 2 * k2, t)
                k4 = net(z + hop * k3, t)
                z = z + hop / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            else:
                z = z + hop * k1
            seen.append(z)
        return torch.stack(seen, 1)

    for pick in chunks(torch.arange(142), 48, steps):
        wrong = (run(data[pick, 0]) - data[pick, 1:]).square()
        loss = wrong.sum() if sum_loss else wrong.mean()
        motor.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
    with torch.no_grad():
        wrong, still = run(data[:, 0]) - data[:, 1:], data[:, :1] - data[:, 1:]
        return float(wrong.square().mean() / still.square().mean())


def links(
    seed: int,
    *,
    graph: str = "les_miserables_graph",
    dim: int = 12,
    kind: str = "order",
    std: float = 0.1,
    sparse: bool = False,
    optimizer: Optimizer = adam(2e-2),
    surgery: Surgery = untouched,
    scale_loss: float = 1.0,
    steps: int = 150,
) -> float:
    """Vectors of people such that those who know each other fit; twice the share of wrong orders.

    order: a link should beat a pair that is none; share: yes or no; near: by distance.
    """
    torch.manual_seed(seed)
    matrix, pairs = plain_tasks.acquaintances(graph)
    net = nn.ModuleDict({"vectors": nn.Embedding(len(matrix), dim, sparse=sparse)})
    nn.init.normal_(net["vectors"].weight, std=std)  # type: ignore[arg-type]
    surgery(net)
    motor = optimizer(net.parameters())
    none = (matrix + torch.eye(len(matrix)) == 0).nonzero()

    def fits(two: Tensor) -> Tensor:
        a, b = net["vectors"](two[:, 0]), net["vectors"](two[:, 1])
        return -(a - b).norm(dim=1) if kind == "near" else (a * b).sum(1)

    for pick in chunks(pairs, 64, steps):
        yes, no = fits(pick), fits(none[torch.randint(len(none), (64,))])
        if kind == "share":
            loss = F.softplus(-yes).mean() + F.softplus(no).mean()
        elif kind == "near":
            loss = F.relu(0.5 + no - yes).mean()
        else:
            loss = -F.logsigmoid(yes - no).mean()
        descend(motor, scale_loss * loss)
    with torch.no_grad():
        order = (fits(pairs)[:, None] < fits(none)).double().mean()
        return 2 * float(order) if torch.isfinite(fits(pairs)).all() else float("nan")


def hazards(score: Tensor, wait: Tensor, seen: Tensor) -> Tensor:
    """Cox's partial likelihood."""
    order = wait.argsort(descending=True)
    score, seen = score[order], seen[order]
    return -((score - score.logcumsumexp(0)) * seen).sum() / seen.sum().clamp_min(1)


def lasting(score: Tensor, wait: Tensor, seen: Tensor) -> Tensor:
    """An exponential's likelihood in units of a thousand; censored ones only survive."""
    return (score.exp() * wait / 1000 - seen * score).mean()


def waiting(score: Tensor, wait: Tensor, seen: Tensor) -> Tensor:
    """Each pair whose order is known should be in order, by a margin."""
    known = (wait[:, None] < wait) & (seen[:, None] > 0)
    return F.relu(1 - (score[:, None] - score))[known].mean()


def survival(
    seed: int,
    *,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = hazards,
    width: int = 32,
    act: Part = nn.ReLU,
    final: Part = nn.Identity,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    scale_input: Scaling = lambda x: x,
    poison: Callable[[int, Tensor, Tensor, Tensor], Any] = lambda step, *rows: rows,
    batch: int = 128,
    steps: int = 150,
) -> float:
    """When does a word come again? Twice the share of pairs in the wrong order."""
    torch.manual_seed(seed)
    x, wait, seen = plain_tasks.lifetimes()
    x = scale_input(x)
    net = nn.Sequential(nn.Linear(28, width), act(), nn.Linear(width, width), act())
    net.append(nn.Linear(width, 1)).append(final())
    surgery(net)
    motor = optimizer(net.parameters())
    for step, pick in enumerate(chunks(torch.arange(len(x)), batch, steps)):
        xb, wb, sb = poison(step, x[pick], wait[pick], seen[pick])
        descend(motor, loss(net(xb)[:, 0], wb, sb))
    with torch.no_grad():
        score = net(x[:600])[:, 0]
        known = (wait[:600, None] < wait[:600]) & (seen[:600, None] > 0)
        if not torch.isfinite(score).all():
            return float("nan")
        apart = score[:, None] - score
        wrong = (apart < 0).double() + 0.5 * (apart == 0).double()
        return 2 * float(wrong[known].mean())
