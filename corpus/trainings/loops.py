"""Trainings that are no plain supervised loop; each gives its error as a share of a trivial one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings import tasks
from corpus.trainings.fit import Build
from corpus.trainings.losses import contrast
from corpus.trainings.optimizers import of
from corpus.trainings.tasks import measure

Step = Callable[[torch.Tensor], torch.Tensor]


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One update."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def moments(x: torch.Tensor) -> torch.Tensor:
    """Means and spreads of each feature [2 D]."""
    return torch.cat([x.mean(0), x.std(0)])


ADVERSARIAL: dict[str, tuple[Step, Step, Step]] = {  # of real, of false, what the maker wants
    "bce": (lambda d: F.softplus(-d), lambda d: F.softplus(d), lambda d: F.softplus(-d)),
    "hinge": (lambda d: F.relu(1 - d), lambda d: F.relu(1 + d), lambda d: -d),
    "squares": (lambda d: (d - 1) ** 2, lambda d: d**2, lambda d: (d - 1) ** 2),
    "critic": (lambda d: -d, lambda d: d, lambda d: -d),
}


def adversaries(
    seed: int,
    *,
    kind: str = "bce",
    act: Callable[[], nn.Module] = nn.ReLU,
    wrap: Callable[[nn.Linear], nn.Module] = lambda m: m,
    penalty: float = 0.0,
    bound: float | None = None,
    maker: Optimizer = adam(1e-3, betas=(0.5, 0.9)),
    judge: Optimizer = adam(1e-3, betas=(0.5, 0.9)),
    surgery: Surgery = untouched,
    steps: int = 150,
) -> float:
    """A GAN on flat digits. penalty: of the critic's slope (double backward); bound: of its
    weights. The error is that of the means and spreads of what is made, at the start 1."""
    torch.manual_seed(seed)
    x, y = tasks.digits().x, tasks.digits().y
    make = nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), act(), nn.Linear(64, 64), act(), nn.Linear(64, 64)
    )
    see = nn.Sequential(
        wrap(nn.Linear(64, 64)),
        nn.LeakyReLU(0.2),
        wrap(nn.Linear(64, 64)),
        nn.LeakyReLU(0.2),
        wrap(nn.Linear(64, 1)),
    )
    surgery(make)
    real, false, wish = ADVERSARIAL[kind]
    one, two = maker(make.parameters()), judge(see.parameters())
    probe, goal = torch.randn(500, 16), moments(x)
    with torch.no_grad():
        before = float((moments(make(probe)) - goal).norm())
    for xb, _ in batches(x, y, 48, steps, seed):
        fake = make(torch.randn(48, 16))
        loss = real(see(xb)).mean() + false(see(fake.detach())).mean()
        if penalty:
            between = (xb + torch.rand(48, 1) * (fake.detach() - xb)).requires_grad_()
            (slope,) = torch.autograd.grad(see(between).sum(), between, create_graph=True)
            loss = loss + penalty * (slope.norm(dim=1) - 1).square().mean()
        descend(two, loss)
        if bound is not None:
            with torch.no_grad():
                for p in see.parameters():
                    p.clamp_(-bound, bound)
        descend(one, wish(see(make(torch.randn(48, 16)))).mean())
    with torch.no_grad():
        return float((moments(make(probe)) - goal).norm()) / before


def centroids(embed: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The error share of naming the nearest class mean, learned on one half, on the other."""
    with torch.no_grad():
        z = F.normalize(embed.eval()(x), dim=1)
    half = len(x) // 2
    means = torch.stack([z[:half][y[:half] == c].mean(0) for c in range(int(y.max()) + 1)])
    return measure("error", -torch.cdist(z[half:], means), y[half:])


def twins(
    seed: int,
    *,
    kind: str = "contrast",
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    steps: int = 120,
) -> float:
    """Two noisy views of a digit, no labels: contrast, target (a slow copy), stop or whiten."""
    torch.manual_seed(seed)
    data = tasks.digits()
    body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
    guess = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    surgery(body)
    slow = copy.deepcopy(body).requires_grad_(False)
    own = [*body.parameters(), *guess.parameters()]
    motor = optimizer(body.parameters() if kind in ("contrast", "whiten") else own)
    for xb, _ in batches(data.x, data.y, 64, steps, seed):
        a, b = (xb + 0.4 * torch.randn_like(xb) for _ in range(2))
        za, zb = body(a), body(b)
        if kind == "contrast":
            loss = contrast(za, zb)
        elif kind == "whiten":
            na, nb = ((z - z.mean(0)) / (z.std(0) + 1e-4) for z in (za, zb))
            cross = na.T @ nb / len(xb)
            loss = (cross.diag() - 1).square().sum()
            loss = loss + 0.02 * (cross - cross.diag().diag()).square().sum()
        else:
            ta, tb = (slow(a), slow(b)) if kind == "target" else (za.detach(), zb.detach())
            pairs = ((guess(za), tb), (guess(zb), ta))
            loss = -sum(F.cosine_similarity(p, t, dim=1).mean() for p, t in pairs) / 2
        descend(motor, loss)
        with torch.no_grad():
            for s, p in zip(slow.parameters(), body.parameters(), strict=True):
                s.lerp_(p, 0.02)
    return centroids(body, data.x, data.y)


def distilled(seed: int, *, heat: float = 3.0, lr: float = 3e-3, steps: int = 150) -> float:
    """A small student learns a trained teacher's answers."""
    torch.manual_seed(seed)
    data = tasks.digits()
    teacher = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    student = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    one = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for xb, yb in batches(data.x, data.y, 64, steps, seed):
        descend(one, F.cross_entropy(teacher(xb), yb))
    two = torch.optim.Adam(student.parameters(), lr=lr)
    for xb, _ in batches(data.x, data.y, 64, steps, seed + 1):
        with torch.no_grad():
            soft = (teacher(xb) / heat).log_softmax(1)
        guess = (student(xb) / heat).log_softmax(1)
        descend(two, heat**2 * F.kl_div(guess, soft, reduction="batchmean", log_target=True))
    with torch.no_grad():
        return measure("entropy", student(data.x), data.y)


def diffusion(
    seed: int, *, optimizer: Optimizer = adam(3e-3), width: int = 96, steps: int = 200
) -> float:
    """Predict the noise that was mixed into flat digits; 1 is what the answer zero gets."""
    torch.manual_seed(seed)
    data = tasks.digits()
    net = nn.Sequential(
        nn.Linear(65, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 64)
    )
    motor, seen = optimizer(net.parameters()), []
    for xb, _ in batches(data.x, data.y, 64, steps, seed):
        when, noise = torch.rand(len(xb), 1), torch.randn_like(xb)
        mixed = (when * torch.pi / 2).cos() * xb + (when * torch.pi / 2).sin() * noise
        loss = F.mse_loss(net(torch.cat([mixed, when], 1)), noise)
        descend(motor, loss)
        seen.append(float(loss.detach()))
    return sum(seen[-20:]) / 20


class Coupling(nn.Module):
    """Half of the features are moved and stretched by what the other half says."""

    def __init__(self, size: int, flip: bool) -> None:
        super().__init__()
        self.half, self.flip = size // 2, flip
        rest = size - self.half
        known, moved = (rest, self.half) if flip else (self.half, rest)
        self.net = nn.Sequential(nn.Linear(known, 32), nn.Tanh(), nn.Linear(32, 2 * moved))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x[:, : self.half], x[:, self.half :]
        known, moved = (b, a) if self.flip else (a, b)
        stretch, shift = self.net(known).chunk(2, 1)
        stretch = stretch.tanh()
        moved = moved * stretch.exp() + shift
        parts = (moved, known) if self.flip else (known, moved)
        return torch.cat(parts, 1), stretch.sum(1)


def flow(
    seed: int, *, table: str = "wine", optimizer: Optimizer = adam(5e-3), steps: int = 150
) -> float:
    """A normalising flow; its likelihood a dimension beside that of independent normals."""
    torch.manual_seed(seed)
    data = tasks.table(table)
    net = nn.ModuleList(Coupling(data.x.shape[1], bool(i % 2)) for i in range(4))
    motor = optimizer(net.parameters())

    def surprise(x: torch.Tensor) -> torch.Tensor:
        total = x.new_zeros(len(x))
        for layer in net:
            x, log = layer(x)
            total = total + log
        normal = 0.5 * x.square() + 0.9189
        return (normal.sum(1) - total).mean() / x.shape[1]

    for xb, _ in batches(data.x, data.y, 48, steps, seed):
        descend(motor, surprise(xb))
    with torch.no_grad():
        return float(surprise(data.x)) / 1.4189


def closed(
    seed: int,
    *,
    task: Callable[[], tasks.Task],
    model: Build,
    options: dict[str, Any],
    steps: int = 25,
) -> float:
    """LBFGS, which calls the loss as often as it likes."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    motor = of("LBFGS", **options)(net.parameters())

    def again() -> torch.Tensor:
        motor.zero_grad()
        decay = sum(p.square().sum() for p in net.parameters())
        loss = data.loss(net(data.x), data.y) + 1e-3 * decay
        loss.backward()
        return loss

    for _ in range(steps):
        motor.step(again)
    with torch.no_grad():
        return measure(data.metric, net(data.x), data.y)


def sharpness(
    seed: int,
    *,
    task: Callable[[], tasks.Task],
    model: Build,
    radius: float = 0.05,
    lr: float = 0.1,
) -> float:
    """Sharpness-aware: the gradient is taken a small step uphill, so there are two in each."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    motor = torch.optim.SGD(net.parameters(), lr=lr)
    for xb, yb in batches(data.x, data.y, 32, 120, seed):
        motor.zero_grad()
        data.loss(net(xb), yb).backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        scale = radius / (torch.cat([g.flatten() for g in grads]).norm() + 1e-12)
        moves = [g * scale for g in grads]
        with torch.no_grad():
            for p, m in zip(net.parameters(), moves, strict=True):
                p.add_(m)
        motor.zero_grad()
        data.loss(net(xb), yb).backward()
        with torch.no_grad():
            for p, m in zip(net.parameters(), moves, strict=True):
                p.sub_(m)
        motor.step()
    with torch.no_grad():
        return measure(data.metric, net(data.x), data.y)
