"""Inner loops, pseudo-labels and other trainings with a plan of their own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, sgd, untouched
from corpus.trainings import tasks
from corpus.trainings.fit import Build
from corpus.trainings.fresh_lib_made import stepped
from corpus.trainings.tasks import Task, measure

Act = Callable[[], nn.Module]
Tensor = torch.Tensor


def sines(
    seed: int,
    *,
    kind: str = "maml",
    inner: float = 0.03,
    outer: Optimizer = adam(3e-3),
    shots: int = 10,
    width: int = 40,
    act: Act = nn.ReLU,
    surgery: Surgery = untouched,
    scale: float = 1.0,
    zero: bool = True,
    clip: float | None = None,
    detach: bool = False,
    rounds: int = 120,
    passes: int = 2,
) -> float:
    """Finn's sine waves: weights from which a few steps on ten points are enough (MAML, or
    Reptile); the error after them, as a share of the mean answer's."""
    torch.manual_seed(seed)
    net: Any = nn.Sequential(
        nn.Linear(1, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 1)
    )
    surgery(net)
    motor = outer(net.parameters())

    def waves(count: int) -> tuple[Tensor, Tensor]:
        height, shift = 0.5 + torch.rand(count, 1, 1), math.pi * torch.rand(count, 1, 1)
        x = 6 * torch.rand(count, 2 * shots, 1) - 3
        return scale * x / 3, height * (x + shift).sin()

    def adapted(x: Tensor, y: Tensor, second: bool) -> dict[str, Tensor]:
        weights = dict(net.named_parameters())
        for _ in range(passes):
            loss = F.mse_loss(functional_call(net, weights, (x,)), y)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=second)
            weights = {k: w - inner * g for (k, w), g in zip(weights.items(), slopes, strict=True)}
        return weights

    def test(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(net, weights, (x,)), y)

    for _ in range(rounds):
        xs, ys = waves(4)
        if kind == "reptile":
            motor.zero_grad()
            for x, y in zip(xs, ys, strict=True):
                for (_, p), w in zip(
                    net.named_parameters(), adapted(x, y, False).values(), strict=True
                ):
                    p.grad = (p.grad if p.grad is not None else 0) + (p - w).detach() / 4
            motor.step()
            continue
        total = torch.zeros(())
        for x, y in zip(xs, ys, strict=True):
            weights = adapted(x[:shots], y[:shots], True)
            if detach:
                weights = {k: w.detach().requires_grad_() for k, w in weights.items()}
            total = total + test(weights, x[shots:], y[shots:]) / 4
        stepped(motor, total, net, zero, clip)
    torch.manual_seed(99)
    xs, ys = waves(40)
    wrong = [
        float(test(adapted(x[:shots], y[:shots], False), x[shots:], y[shots:]).detach())
        for x, y in zip(xs, ys, strict=True)
    ]
    return sum(wrong) / len(wrong) / float(ys.var())


def fixmatch(
    seed: int,
    *,
    width: int = 64,
    depth: int = 2,
    act: Act = nn.ReLU,
    norm: bool = False,
    known: int = 100,
    sure: float = 0.9,
    share: float = 1.0,
    optimizer: Optimizer = sgd(0.05, momentum=0.9, nesterov=True),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    zero: bool = True,
    average: float = 0.95,
    agree: Callable[[Tensor, Tensor], Tensor] = lambda out, y: F.cross_entropy(
        out, y, reduction="none"
    ),
    scale: float = 1.0,
    steps: int = 200,
) -> float:
    """A hundred labels; for the rest, what the net is sure of under weak noise is taught under
    strong noise. The answer is that of an average of the weights."""
    torch.manual_seed(seed)
    data = tasks.digits(metric="error")
    x, y = data.x * scale, data.y
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(64 if i == 0 else width, width)]
        parts += [nn.BatchNorm1d(width)] if norm else []
        parts += [act()]
    net = nn.Sequential(*parts, nn.Linear(width, 10))
    surgery(net)
    mean = copy.deepcopy(net).requires_grad_(False)
    motor = optimizer(net.parameters())
    pairs = zip(
        batches(x[:known], y[:known], 32, steps, seed),
        batches(x, y, 96, steps, seed + 1),
        strict=True,
    )
    for step, ((xl, yl), (xu, _)) in enumerate(pairs):
        xl, yl = poison(step, xl, yl)
        with torch.no_grad():
            p, guess = net(xu + 0.1 * scale * torch.randn_like(xu)).softmax(1).max(1)
        strong = (xu + 0.5 * scale * torch.randn_like(xu)) * (torch.rand_like(xu) > 0.2)
        loss = F.cross_entropy(net(xl), yl)
        loss = loss + share * (agree(net(strong), guess) * (p > sure)).mean()
        stepped(motor, loss, net, zero, None)
        with torch.no_grad():
            for a, b in zip(mean.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 1 - average)
            for a, b in zip(mean.buffers(), net.buffers(), strict=True):
                a.copy_(b)
    if not all(torch.isfinite(p).all() for p in net.parameters()):
        return float("nan")
    with torch.no_grad():
        return measure("error", mean.eval()(x), y)


def hardened(
    seed: int,
    *,
    task: Callable[[], Task] = tasks.digits,
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    radius: float = 0.2,
    inner: int = 3,
    own: Callable[[Tensor], Tensor] = torch.sign,
    zero: bool = True,
    growing: bool = False,
    poison: Poison = same_batch,
    steps: int = 120,
) -> float:
    """Adversarial training (PGD): the inputs climb the loss first; growing: by a curriculum."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    surgery(net)
    motor = optimizer(net.parameters())
    for step, pair in enumerate(batches(data.x, data.y, 48, steps, seed)):
        xb, yb = poison(step, *pair)
        bound = radius * min(1.0, 2 * step / steps) if growing else radius
        shift = torch.zeros_like(xb)
        for _ in range(inner):
            shift.requires_grad_()
            (slope,) = torch.autograd.grad(data.loss(net(xb + shift), yb), shift)
            shift = (shift + 0.5 * bound * own(slope)).clamp(-bound, bound).detach()
        stepped(motor, data.loss(net(xb + shift), yb), net, zero, None)
    with torch.no_grad():
        return measure(data.metric, net.eval()(data.x), data.y)


def two_speeds(
    seed: int,
    *,
    task: Callable[[], Task],
    body: Callable[[Task], nn.Module],
    width: int,
    slow: Optimizer = sgd(0.02, momentum=0.9),
    fast: Optimizer = adam(5e-3),
    late_head: bool = False,
    forget: bool = False,
    ordered: bool = True,
    clip: float | None = None,
    batch: int = 32,
    surgery: Surgery = untouched,
    steps: int = 160,
) -> float:
    """body and head under an optimizer each; the easy half of the samples first (a curriculum).

    late_head: the head is put anew when its optimizer holds the old one; forget: only the head's
    optimizer zeroes its gradients.
    """
    torch.manual_seed(seed)
    data = task()
    net = nn.ModuleDict(dict(body=body(data), head=nn.Linear(width, data.out)))
    surgery(net)
    one, two = slow(net["body"].parameters()), fast(net["head"].parameters())
    if late_head:
        net["head"] = nn.Linear(width, data.out)
    middle = data.x.flatten(1).mean(0)
    order = (data.x.flatten(1) - middle).square().sum(1).argsort()
    for step in range(steps):
        reach = len(order) if not ordered else int(len(order) * min(1.0, 0.5 + step / steps))
        pick = order[torch.randint(reach, (batch,))]
        loss = data.loss(net["head"](net["body"](data.x[pick])), data.y[pick])
        if not forget:
            one.zero_grad()
        two.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        one.step()
        two.step()
    with torch.no_grad():
        return measure(data.metric, net["head"](net["body"](data.x)), data.y)
