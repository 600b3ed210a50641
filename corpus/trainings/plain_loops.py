"""Trainings on vectors that are no plain supervised loop; each gives a share of a trivial error."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings.fit import Build
from corpus.trainings.loops import centroids, descend
from corpus.trainings.tasks import Task, measure

Tensor = torch.Tensor
Scaling = Callable[[Tensor], Tensor]


def chunks(x: Tensor, size: int, steps: int) -> Iterator[Tensor]:
    """Random rows of x, `size` at a time."""
    for _ in range(steps):
        yield x[torch.randint(len(x), (size,))]


class Trainer:
    """Epochs over a loader, a validation split, patience, and the best weights in the end."""

    def __init__(
        self,
        net: nn.Module,
        data: Task,
        motor: torch.optim.Optimizer,
        *,
        batch: int,
        plan: Any = None,
        zero: str = "batch",
        patience: int = 5,
        clip: float | None = None,
    ) -> None:
        self.net, self.data, self.motor, self.plan = net, data, motor, plan
        self.zero, self.patience, self.clip = zero, patience, clip
        every = TensorDataset(data.x, data.y)
        train, valid = random_split(every, [0.8, 0.2])
        self.train = DataLoader(train, batch_size=batch, shuffle=True)
        self.valid = DataLoader(valid, batch_size=len(valid))

    def train_step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update; the loss."""
        if self.zero == "batch":
            self.motor.zero_grad(set_to_none=True)
        loss = self.data.loss(self.net(x), y)
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.motor.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self) -> float:
        """The share of the constant's error on what was held out."""
        self.net.eval()
        x, y = next(iter(self.valid))
        result = measure(self.data.metric, self.net(x), y)
        self.net.train()
        return result

    def fit(self, epochs: int) -> float:
        """Train; the share at the best epoch, or at the last where nothing was ever better."""
        best, late, kept = math.inf, 0, copy.deepcopy(self.net.state_dict())
        for _ in range(epochs):
            if self.zero == "epoch":
                self.motor.zero_grad()
            for x, y in self.train:
                self.train_step(x, y)
            if self.plan is not None:
                self.plan.step()
            now = self.evaluate()
            if now < best:
                best, late, kept = now, 0, copy.deepcopy(self.net.state_dict())
            late += 1
            if late > self.patience:
                break
        self.net.load_state_dict(kept)
        return best if math.isfinite(best) else math.nan


def in_epochs(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    epochs: int = 8,
    surgery: Surgery = untouched,
    scale_input: Scaling = lambda x: x,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    **options: Any,
) -> float:
    """A task trained by `Trainer`."""
    torch.manual_seed(seed)
    data = task()
    data = Task(scale_input(data.x), data.y, data.loss, data.out, data.metric, data.size)
    net = model(data)
    surgery(net)
    motor = optimizer(net.parameters())
    plan = schedule(motor) if schedule else None
    options.setdefault("batch", 64)
    return Trainer(net, data, motor, plan=plan, **options).fit(epochs)


class Variational(nn.Module):
    """encoder, mean, spread, decoder."""

    def __init__(self, inputs: int, width: int, latent: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, width), act(), nn.Linear(width, width))
        self.mean, self.spread = nn.Linear(width, latent), nn.Linear(width, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, width), act(), nn.Linear(width, inputs))
        self.between: nn.Module = nn.Identity()
        self.last: nn.Module = nn.Identity()


def variational(
    seed: int,
    *,
    task: Callable[[], Task],
    width: int = 48,
    latent: int = 6,
    act: Callable[[], nn.Module] = nn.GELU,
    beta: float = 0.02,
    warm: int = 1,
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    clip: float | None = None,
    scale_input: Scaling = lambda x: x,
    scale_loss: float = 1.0,
    steps: int = 250,
) -> float:
    """A variational autoencoder; what its mean code gives back, as a share of the spread."""
    torch.manual_seed(seed)
    x = scale_input(task().x)
    net = Variational(x.shape[1], width, latent, act)
    surgery(net)
    motor = optimizer(net.parameters())
    for step, xb in enumerate(chunks(x, 48, steps)):
        h = net.between(net.encoder(xb))
        mean, log = net.mean(h), net.spread(h)
        code = mean + torch.randn_like(mean) * (0.5 * log).exp()
        away = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean() / x.shape[1]
        loss = F.mse_loss(net.last(net.decoder(code)), xb) + min(1.0, step / warm) * beta * away
        motor.zero_grad()
        (scale_loss * loss).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
    with torch.no_grad():
        code = net.mean(net.between(net.encoder(x)))
        return measure("squares", net.last(net.decoder(code)), x)


def masked(layer: nn.Linear, ins: Tensor, outs: Tensor, strict: bool) -> Tensor:
    """Which weights a unit may have so that it sees only what comes before it."""
    return (outs[:, None] > ins if strict else outs[:, None] >= ins).to(layer.weight.dtype)


class Autoregressive(nn.Module):
    """Each feature is standardised by what those before it say (a masked autoregressive flow)."""

    def __init__(self, size: int, width: int, turned: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(size, width), nn.Linear(width, 2 * size)
        order = torch.arange(size).flip(0) if turned else torch.arange(size)
        hidden = torch.arange(width) % (size - 1)
        self.masks = (
            masked(self.one, order, hidden, False),
            masked(self.two, hidden, order.repeat(2), True),
        )
        self.bound: Callable[[Tensor], Tensor] = lambda s: 2 * torch.tanh(s / 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.silu(F.linear(x, self.one.weight * self.masks[0], self.one.bias))
        shift, log = F.linear(h, self.two.weight * self.masks[1], self.two.bias).chunk(2, 1)
        log = self.bound(log)
        return (x - shift) * (-log).exp(), -log.sum(1)


def density(
    seed: int,
    *,
    rows: Callable[[], Tensor],
    depth: int = 3,
    width: int = 48,
    optimizer: Optimizer = adam(4e-3),
    surgery: Surgery = untouched,
    scale_input: Scaling = lambda x: x,
    reduce: Callable[[Tensor], Tensor] = torch.mean,
    poison: Callable[[int, Tensor], Tensor] = lambda step, x: x,
    steps: int = 200,
) -> float:
    """A flow's surprise for each feature beside that of one normal for each."""
    torch.manual_seed(seed)
    x = scale_input(rows())
    net = nn.ModuleList(Autoregressive(x.shape[1], width, bool(i % 2)) for i in range(depth))
    surgery(net)
    motor = optimizer(net.parameters())

    def surprise(z: Tensor) -> Tensor:
        total = z.new_zeros(len(z))
        for layer in net:
            z, log = layer(z)
            total = total + log
        return (0.5 * z.square() + 0.9189).mean(1) - total / x.shape[1]

    for step, xb in enumerate(chunks(x, 64, steps)):
        descend(motor, reduce(surprise(poison(step, xb))))
    with torch.no_grad():
        return float(surprise(x).mean() - x.std().log()) / 1.4189


def metric_learning(
    seed: int,
    *,
    task: Callable[[], Task],
    kind: str = "proxies",
    model: Build | None = None,
    surgery: Surgery = untouched,
    length: Callable[[Tensor], Tensor] = lambda z: F.normalize(z, dim=1),
    margin: float = 0.2,
    least: float = 1e-6,
    optimizer: Optimizer = adam(3e-3),
    scale_loss: float = 1.0,
    steps: int = 150,
) -> float:
    """Embeddings by class: proxies with an angular margin, triplets, centres or n-pairs."""
    torch.manual_seed(seed)
    data = task()
    wide = Task(data.x, data.y, data.loss, 16, data.metric, data.size)
    net = (model or (lambda t: nn.Sequential(
        nn.Linear(t.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 16)
    )))(wide)  # fmt: skip
    surgery(net)
    proxies = nn.Parameter(torch.randn(data.out, 16))
    motor = optimizer([*net.parameters(), proxies])
    order = torch.arange(len(data.x))
    for pick in chunks(order, 64, steps):
        z, y = length(net(data.x[pick])), data.y[pick]
        same = y[:, None] == y
        if kind == "proxies":
            cosine = z @ F.normalize(proxies, dim=1).T
            loss = F.cross_entropy(12 * (cosine - margin * F.one_hot(y, data.out)), y)
        elif kind == "centres":
            far = torch.cdist(z, proxies)
            loss = F.cross_entropy(-far.square(), y) + 0.05 * far.gather(1, y[:, None]).mean()
        elif kind == "triplets":
            far = (2.0 - 2 * z @ z.T).clamp_min(least).sqrt()
            near = far.masked_fill(~same, 0.0).amax(1) - far.masked_fill(same, 9.0).amin(1)
            loss = F.relu(near + margin).mean()
        else:
            scores = (z @ z.T / 0.15).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e4)
            own = scores.masked_fill(~same, -1e4).logsumexp(1)
            loss = (scores.logsumexp(1) - own).mean()
        descend(motor, scale_loss * loss)
    return centroids(net, data.x, data.y)
