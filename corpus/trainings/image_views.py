"""Image trainings with a second view, a second phase or a second network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings import image_tasks as at
from corpus.trainings import tasks
from corpus.trainings.fit import Build
from corpus.trainings.image_blocks import Part, conv
from corpus.trainings.loops import centroids, descend
from corpus.trainings.losses import contrast
from corpus.trainings.tasks import measure


def body(width: int = 16, act: Part = nn.ReLU, features: int = 32) -> nn.Sequential:
    """Two convolutions and a linear layer over images [N, 1, 8, 8]."""
    return nn.Sequential(
        conv(1, width),
        nn.BatchNorm2d(width),
        act(),
        nn.MaxPool2d(2),
        conv(width, 2 * width),
        act(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, features),
    )


def jittered(x: torch.Tensor) -> torch.Tensor:
    """Moved by a pixel or two, darker or brighter, with noise."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    shade = 1 + 0.3 * torch.randn(len(x), 1, 1, 1)
    return shade * torch.roll(x, (down, right), (2, 3)) + 0.3 * torch.randn_like(x)


def queued(
    seed: int,
    *,
    heat: float = 0.2,
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    unit: Callable[[torch.Tensor], torch.Tensor] = lambda z: F.normalize(z, dim=1),
    keep: float = 0.97,
    factor: float = 1.0,
    view: Callable[[torch.Tensor], torch.Tensor] = jittered,
    steps: int = 120,
) -> float:
    """Each digit must be told from a queue of others that a slow copy has seen (MoCo)."""
    torch.manual_seed(seed)
    data = tasks.digits((1, 8, 8))
    net = body()
    surgery(net)
    slow = copy.deepcopy(net).requires_grad_(False)
    motor = optimizer(net.parameters())
    queue = F.normalize(torch.randn(256, 32), dim=1)
    for xb, _ in batches(data.x, data.y, 32, steps, seed):
        one = unit(net(view(xb)))
        with torch.no_grad():
            two = unit(slow(view(xb)))
        own = (one * two).sum(1, keepdim=True)
        scores = torch.cat([own, one @ queue.T], 1) / heat
        descend(motor, factor * F.cross_entropy(scores, torch.zeros(len(xb), dtype=torch.long)))
        queue = torch.cat([two, queue])[:256]
        with torch.no_grad():
            for s, p in zip(slow.parameters(), net.parameters(), strict=True):
                s.lerp_(p, 1 - keep)
    return centroids(net, data.x, data.y)


def two_views(
    seed: int,
    *,
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    heat: float = 0.2,
    batch: int = 48,
    steps: int = 100,
) -> float:
    """Two views of a digit must find each other among the batch; a head that is thrown away."""
    torch.manual_seed(seed)
    data = tasks.digits((1, 8, 8))
    net = nn.ModuleDict({"encoder": body(12, nn.GELU, 48)})
    net["projector"] = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 16))
    surgery(net)
    motor = optimizer(net.parameters())
    for xb, _ in batches(data.x, data.y, batch, steps, seed):
        one, two = (net["projector"](net["encoder"](jittered(xb))) for _ in range(2))
        descend(motor, contrast(one, two, heat))
    return centroids(net["encoder"], data.x, data.y)


def drawn(
    seed: int,
    *,
    beta: float = 0.1,
    learned_spread: bool = False,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    act: Part = nn.ReLU,
    spread: Callable[[torch.Tensor], torch.Tensor] = lambda s: (0.5 * s).exp(),
    out: Part = nn.Identity,
    reduction: str = "mean",
    poison: Poison = same_batch,
    steps: int = 150,
) -> float:
    """A variational autoencoder with convolutions; learned_spread: the likelihood's own width,
    under which the loss goes below zero."""
    torch.manual_seed(seed)
    x = tasks.digits((1, 8, 8)).x
    encoder = nn.Sequential(
        conv(1, 12, stride=2),
        act(),
        conv(12, 24, stride=2),
        act(),
        nn.Flatten(),
        nn.Linear(96, 24),
    )
    decoder = nn.Sequential(
        nn.Linear(12, 96),
        act(),
        nn.Unflatten(1, (24, 2, 2)),
        nn.ConvTranspose2d(24, 12, 4, 2, 1),
        act(),
        nn.ConvTranspose2d(12, 1, 4, 2, 1),
        out(),
    )
    log_width = nn.Parameter(torch.zeros(()))
    net = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    surgery(net)
    motor = optimizer([*net.parameters(), log_width])
    for step, pair in enumerate(batches(x, x, 32, steps, seed)):
        xb, _ = poison(step, *pair)
        mean, log = net["encoder"](xb).chunk(2, 1)
        code = mean + spread(log) * torch.randn_like(mean)
        wrong = F.mse_loss(net["decoder"](code), xb, reduction=reduction)
        if learned_spread:
            wrong = 0.5 * wrong * (-2 * log_width).exp() + log_width
        far = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean() / 64
        descend(motor, wrong + beta * far)
    with torch.no_grad():
        return measure("squares", net["decoder"](net["encoder"](x[:600])[:, :12]), x[:600])


def tuned(
    seed: int,
    *,
    frozen: int = 40,
    head_first: bool = True,
    optimizer: Optimizer = adam(3e-3),
    again: Optimizer | None = None,
    surgery: Surgery = untouched,
    detach: bool = False,
    zero: bool = True,
    factor: float = 1.0,
    keep_head: bool = False,
    steps: int = 100,
) -> float:
    """A body learns how pieces were turned, gets a new head and learns digits; frozen for a while.

    head_first: the new head stands before the second optimizer is made, as it must.
    """
    torch.manual_seed(seed)
    old, new = at.turned(8), tasks.digits((1, 8, 8))
    net = nn.ModuleDict({"body": body(), "head": nn.Linear(32, 4)})
    motor = adam(3e-3)(net.parameters())
    for xb, yb in batches(old.x, old.y, 32, 40, seed):
        descend(motor, F.cross_entropy(net["head"](net["body"](xb).relu()), yb))
    if not head_first:
        motor = (again or optimizer)(net.parameters())
    net["head"] = nn.Linear(32, 10)
    surgery(net)
    if head_first:
        motor = (again or optimizer)(net.parameters())
    for step, (xb, yb) in enumerate(batches(new.x, new.y, 32, steps, seed + 1)):
        net["body"].requires_grad_(step >= frozen)
        h = net["body"](xb).relu()
        if zero:
            motor.zero_grad()
        (factor * F.cross_entropy(net["head"](h.detach() if detach else h), yb)).backward()
        motor.step()
    net.eval()
    with torch.no_grad():
        return measure("entropy", net["head"](net["body"](new.x).relu()), new.y)


def taught(
    seed: int,
    *,
    heat: float = 4.0,
    hint: float = 0.5,
    optimizer: Optimizer = adam(4e-3),
    surgery: Surgery = untouched,
    divide: Callable[[torch.Tensor], torch.Tensor] = lambda s: s.log_softmax(1),
    factor: float = 1.0,
    steps: int = 120,
) -> float:
    """A narrow student learns a wide teacher's answers and, through a map, its features."""
    torch.manual_seed(seed)
    data = tasks.digits((1, 8, 8))
    teacher, top = body(24), nn.Linear(32, 10)
    student = nn.ModuleDict({"body": body(6, nn.ReLU, 16)})
    student["map"], student["head"] = nn.Linear(16, 32), nn.Linear(16, 10)
    surgery(student)
    first = torch.optim.Adam([*teacher.parameters(), *top.parameters()], lr=3e-3)
    for xb, yb in batches(data.x, data.y, 32, 60, seed):
        descend(first, F.cross_entropy(top(teacher(xb).relu()), yb))
    teacher.eval().requires_grad_(False)
    motor = optimizer(student.parameters())
    for xb, _ in batches(data.x, data.y, 32, steps, seed + 1):
        with torch.no_grad():
            known = teacher(xb)
            soft = (top(known.relu()) / heat).softmax(1)
        h = student["body"](xb)
        guess = divide(student["head"](h.relu()) / heat)
        loss = heat**2 * -(soft * guess).sum(1).mean() + hint * F.mse_loss(student["map"](h), known)
        descend(motor, factor * loss)
    student.eval()
    with torch.no_grad():
        return measure("entropy", student["head"](student["body"](data.x).relu()), data.y)


def attacked(
    seed: int,
    *,
    reach: float = 0.25,
    rounds: int = 2,
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    factor: float = 1.0,
    steps: int = 80,
) -> float:
    """Trained on digits that were changed, within reach, to be as hard as possible."""
    torch.manual_seed(seed)
    data = tasks.digits((1, 8, 8))
    net = model(data)
    surgery(net)
    motor = optimizer(net.parameters())
    for xb, yb in batches(data.x, data.y, 32, steps, seed):
        bent = xb + reach * torch.empty_like(xb).uniform_(-1, 1)
        for _ in range(rounds):
            bent.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(net(bent), yb), bent)
            bent = (bent + reach * slope.sign()).detach()
            bent = xb + (bent - xb).clamp(-reach, reach)
        descend(motor, factor * F.cross_entropy(net(bent), yb))
    net.eval()
    with torch.no_grad():
        return measure("entropy", net(data.x), data.y)
