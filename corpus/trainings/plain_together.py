"""Trainings of several parts: many heads, two optimizers, local losses, sets and ensembles."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state

from corpus.data import batches
from corpus.recipes import Optimizer, Surgery, adam, sgd, untouched
from corpus.trainings import plain_tasks, tasks
from corpus.trainings.fit import Build
from corpus.trainings.loops import descend, moments
from corpus.trainings.optimizers import of
from corpus.trainings.plain_loops import Scaling, chunks
from corpus.trainings.plain_parts import Turned
from corpus.trainings.tasks import Task, measure

Tensor = torch.Tensor


class Heads(nn.Module):
    """body, and a head each for life, continent and wealth."""

    def __init__(self, width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), act(), nn.Linear(width, width), act())
        self.life, self.place, self.wealth = (nn.Linear(width, n) for n in (1, 5, 1))
        self.cut: Scaling = lambda h: h

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.cut(self.body(x))
        return self.life(h), self.place(h), self.wealth(h)


def many_heads(
    seed: int,
    *,
    width: int = 48,
    act: Callable[[], nn.Module] = nn.ReLU,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    balance: bool = False,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    scale_input: Scaling = lambda x: x,
    steps: int = 200,
) -> float:
    """Three answers about a country from place, year and population; the mean of their shares.

    balance: each loss is divided by its own size.
    """
    torch.manual_seed(seed)
    d = plain_tasks.nations()
    x = plain_tasks.standard(torch.stack([d["year"], d["lon"], d["lat"], d["pop"].log()], 1))
    x, life = scale_input(x), plain_tasks.standard(d["life"][:, None])
    rich = plain_tasks.standard(d["gdp"].log()[:, None])
    net = Heads(width, act)
    surgery(net)
    motor = optimizer(net.parameters())
    for pick in chunks(torch.arange(len(x)), 64, steps):
        a, b, c = net(x[pick])
        losses = (
            F.mse_loss(a, life[pick]),
            F.cross_entropy(b, d["continent"][pick]),
            F.smooth_l1_loss(c, rich[pick]),
        )
        if balance:
            losses = tuple(v / v.detach().clamp_min(1e-3) for v in losses)
        descend(motor, sum(w * v for w, v in zip(weights, losses, strict=True)))
    with torch.no_grad():
        a, b, c = net(x)
        shares = (
            measure("squares", a, life),
            measure("entropy", b, d["continent"]),
            measure("squares", c, rich),
        )
        return sum(shares) / 3


def blind(
    seed: int, *, strength: float = 0.5, optimizer: Optimizer = adam(3e-3), steps: int = 200
) -> float:
    """A country's continent from a code that must not tell the year (a turned gradient)."""
    torch.manual_seed(seed)
    data, d = plain_tasks.continent(), plain_tasks.nations()
    (late,) = plain_tasks.shuffled((d["year"] > 1979).long())
    body = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
    place, when = nn.Linear(24, 5), nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2))
    motor = optimizer(nn.ModuleList([body, place, when]).parameters())
    for pick in chunks(torch.arange(len(late)), 64, steps):
        h = body(data.x[pick])
        turned = when(Turned.apply(h, strength))
        descend(
            motor, F.cross_entropy(place(h), data.y[pick]) + F.cross_entropy(turned, late[pick])
        )
    with torch.no_grad():
        return measure("entropy", place(body(data.x)), data.y)


def two_motors(
    seed: int,
    *,
    forget: str = "",
    vectors: Optimizer = of("SparseAdam", lr=2e-2),
    rest: Optimizer = sgd(0.05, momentum=0.9),
    surgery: Surgery = untouched,
    steps: int = 200,
) -> float:
    """Sparse vectors of countries under one optimizer, the network under another.

    forget: whose gradients nobody sets to zero ("vectors" or "rest").
    """
    torch.manual_seed(seed)
    data = plain_tasks.country_year()
    vector = nn.Embedding(data.size, 8, sparse=True)
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    whole = nn.ModuleDict({"vector": vector, "net": net})
    surgery(whole)
    motors = {"vectors": vectors(vector.parameters()), "rest": rest(net.parameters())}
    for xb, yb in batches(data.x, data.y, 64, steps, seed):
        for name, motor in motors.items():
            if name != forget:
                motor.zero_grad()
        F.mse_loss(net(vector(xb).flatten(1)), yb).backward()
        for motor in motors.values():
            motor.step()
    with torch.no_grad():
        return measure("squares", net(vector(data.x).flatten(1)), data.y)


def layer_by_layer(
    seed: int,
    *,
    depth: int = 3,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    scale_input: Scaling = lambda x: x,
    steps: int = 120,
) -> float:
    """No gradient crosses from layer to layer: each learns by a small head of its own."""
    torch.manual_seed(seed)
    data = plain_tasks.names(bag=True)
    layers = nn.ModuleList(nn.Linear(48 if i else 300, 48) for i in range(depth))
    heads = nn.ModuleList(nn.Linear(48, 5) for _ in range(depth))
    net = nn.ModuleDict({"layers": layers, "heads": heads})
    surgery(net)
    motor, x = optimizer(net.parameters()), scale_input(data.x)
    for xb, yb in batches(x, data.y, 48, steps, seed):
        h, loss = xb, torch.zeros(())
        for layer, head in zip(layers, heads, strict=True):
            h = F.relu(layer(h.detach()))
            loss = loss + F.cross_entropy(head(h), yb)
        descend(motor, loss)
    with torch.no_grad():
        h = x
        for layer in layers:
            h = F.relu(layer(h))
        return measure("entropy", heads[-1](h), data.y)


def imagined(
    seed: int,
    *,
    widths: tuple[float, ...] = (1.0, 2.0, 4.0),
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    scale_loss: float = 1.0,
    steps: int = 150,
) -> float:
    """A generator whose samples must look like tumours to a family of kernels (MMD)."""
    torch.manual_seed(seed)
    x = plain_tasks.echo("breast_cancer").x
    make = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 30)
    )
    surgery(make)
    motor, probe = optimizer(make.parameters()), torch.randn(500, 8)

    def near(a: Tensor, b: Tensor) -> Tensor:
        far = (a[:, None] - b).square().mean(-1)
        return sum((torch.exp(-far / w) for w in widths), torch.zeros(())).mean()

    def apart() -> float:
        with torch.no_grad():
            return float((moments(make(probe)) - moments(x)).norm())

    before = apart()
    for real in chunks(x, 64, steps):
        fake = make(torch.randn(64, 8))
        descend(motor, scale_loss * (near(fake, fake) - 2 * near(fake, real)))
    return apart() / before


def closure(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    surgery: Surgery = untouched,
    optimizer: Optimizer = of("LBFGS", lr=0.3, max_iter=5, history_size=20),
    scale_input: Scaling = lambda x: x,
    size: int = 256,
    steps: int = 30,
) -> float:
    """LBFGS on large batches that are drawn anew for each of its steps."""
    torch.manual_seed(seed)
    data = task()
    net, x = model(data), scale_input(data.x)
    surgery(net)
    motor = optimizer(net.parameters())
    for pick in chunks(torch.arange(len(x)), size, steps):

        def again(pick: Tensor = pick) -> Tensor:
            motor.zero_grad()
            loss = data.loss(net(x[pick]), data.y[pick])
            loss.backward()
            return loss

        motor.step(again)
    with torch.no_grad():
        return measure(data.metric, net(x), data.y)


def ensemble(
    seed: int, *, count: int = 5, optimizer: Optimizer = adam(5e-3), steps: int = 120
) -> float:
    """Five networks trained at once, their weights stacked and mapped over."""
    torch.manual_seed(seed)
    data = plain_tasks.hues()
    nets = [
        nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, data.out)) for _ in range(count)
    ]
    weights, buffers = stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")

    def one(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(base, (p, b), (x,))

    every = torch.vmap(one, in_dims=(0, 0, None))
    motor = optimizer(weights.values())
    for xb, yb in batches(data.x, data.y, 48, steps, seed):
        out = every(weights, buffers, xb)
        descend(motor, F.cross_entropy(out.flatten(0, 1), yb.repeat(count)))
    with torch.no_grad():
        return measure("entropy", every(weights, buffers, data.x).softmax(-1).mean(0).log(), data.y)


def by_hand(seed: int, *, lr: float = 0.2, steps: int = 200) -> float:
    """Matrices without a module or an optimizer, as in a first lesson."""
    torch.manual_seed(seed)
    data = tasks.table("wine")
    one = (torch.randn(13, 24) / 13**0.5).requires_grad_()
    two = (torch.randn(24, 3) / 24**0.5).requires_grad_()
    for xb, yb in batches(data.x, data.y, 24, steps, seed):
        slopes = torch.autograd.grad(F.cross_entropy(torch.tanh(xb @ one) @ two, yb), (one, two))
        with torch.no_grad():
            for p, g in zip((one, two), slopes, strict=True):
                p -= lr * g
    with torch.no_grad():
        return measure("entropy", torch.tanh(data.x @ one) @ two, data.y)
