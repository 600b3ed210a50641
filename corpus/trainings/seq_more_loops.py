"""Loops whose loss is no sum over samples: labels without places, pairs of nodes, densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings import seq_graph_tasks, seq_tasks, tasks
from corpus.trainings.tasks import Task


def ctc(
    seed: int,
    *,
    net: Callable[[], nn.Module],
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    clip: float | None = 5.0,
    digits: int = 3,
    poison: Poison = same_batch,
    zero: bool = True,
    factor: float = 1.0,
    steps: int = 150,
) -> float:
    """Rows of digits side by side, read column by column; the loss of the best constant is 1."""
    torch.manual_seed(seed)
    data = tasks.digits((8, 8))
    model = net()
    surgery(model)
    motor = optimizer(model.parameters())
    length = 8 * digits

    def lines(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pick = torch.randint(len(data.x), (count, digits))
        x = data.x[pick].permute(0, 1, 3, 2).reshape(count, length, 8)
        return x, data.y[pick] + 1

    def surprise(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        frames = torch.full((len(y),), length)
        labels = torch.full((len(y),), digits)
        log = scores.log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log, y, frames, labels, reduction="sum") / len(y)

    for step in range(steps):
        x, y = poison(step, *lines(24))
        loss = factor * surprise(model(x), y)
        if zero:
            motor.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        motor.step()
    with torch.no_grad():
        x, y = lines(300)
        flat = []
        for blank in torch.linspace(0, 8, 33):
            constant = torch.zeros(len(y), length, 11)
            constant[..., 0] = blank
            flat.append(float(surprise(constant, y)))
        return float(surprise(model.eval()(x), y)) / min(flat)


def links(
    seed: int,
    *,
    graph: Callable[[], Task] = seq_graph_tasks.novel,
    optimizer: Optimizer = adam(1e-2),
    width: int = 16,
    noise: bool = False,
    surgery: Surgery = untouched,
    steps: int = 150,
) -> float:
    """A graph autoencoder (noise: a variational one): which pairs are joined, of equally many."""
    torch.manual_seed(seed)
    data = graph()
    assert data.edges is not None
    one, two = data.edges
    size = len(data.x)
    a = torch.eye(size)
    a[one, two] = 1.0
    walk = a / a.sum(1, keepdim=True)
    first, second = nn.Linear(data.x.shape[1], 2 * width), nn.Linear(2 * width, 2 * width)
    net = nn.ModuleDict({"first": first, "second": second})
    surgery(net)
    motor = optimizer(net.parameters())
    seen = []
    for _ in range(steps):
        h = walk @ second(F.relu(walk @ first(data.x)))
        mean, log = h.chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log).exp() if noise else mean
        far = torch.randint(size, (2, len(one)))
        keep = a[far[0], far[1]] == 0
        yes = (z[one] * z[two]).sum(1)
        no = (z[far[0]] * z[far[1]]).sum(1)[keep]
        loss = miss = F.softplus(-yes).mean() + F.softplus(no).mean()
        if noise:
            loss = loss + 0.02 * (mean.square() + log.exp() - 1 - log).mean()
        motor.zero_grad()
        loss.backward()
        motor.step()
        seen.append(float(miss.detach()) / math.log(4))
    return sum(seen[-10:]) / 10


class First(nn.Module):
    """Of an output and a state, the output."""

    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return pair[0]


class Guess(nn.Module):
    """A GRU that answers with a mean and the logarithm of a spread for each number."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, width, batch_first=True)
        self.mean, self.spread = nn.Linear(width, inputs), nn.Linear(width, inputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.rnn(x)[0][:, -1]
        return self.mean(h), self.spread(h)


def density(
    seed: int,
    *,
    series: str = "hares",
    width: int = 32,
    optimizer: Optimizer = adam(5e-3),
    floor: Callable[[torch.Tensor], torch.Tensor] = lambda s: s.clamp(-4.0, 3.0),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    zero: bool = True,
    factor: float = 1.0,
    clip: float | None = 10.0,
    steps: int = 150,
) -> float:
    """Forecasts with their own doubt, by the normal likelihood: a loss that becomes negative."""
    torch.manual_seed(seed)
    data = seq_tasks.series(series, 16, 3, 0.05)
    net = Guess(data.x.shape[-1], width)
    surgery(net)
    motor = optimizer(net.parameters())
    for step, pair in enumerate(batches(data.x, data.y, 32, steps, seed)):
        x, y = poison(step, *pair)
        mean, log = net(x)
        log = floor(log)
        loss = (log + 0.5 * ((y - mean) * (-log).exp()).square()).mean()
        if zero:
            motor.zero_grad()
        (factor * loss).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
    with torch.no_grad():
        return tasks.measure("squares", net(data.x)[0], data.y)
