"""More trainings that are no plain loop: inner loops, codes, carried states, teachers."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from corpus.data import batches
from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings import tasks
from corpus.trainings.fit import Build
from corpus.trainings.loops import centroids, descend
from corpus.trainings.tasks import Task, measure


def inner_loop(seed: int, *, lr: float = 3e-3, steps: int = 100) -> float:
    """Weights from which one gradient step on a task's own samples is enough (MAML)."""
    torch.manual_seed(seed)
    data = tasks.digits()
    net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 2))
    motor = torch.optim.Adam(net.parameters(), lr=lr)
    wrong = []
    for step in range(steps):
        pair = torch.randperm(10)[:2]
        which = torch.isin(data.y, pair).nonzero()[:, 0]
        pick = which[torch.randperm(len(which))[:48]]
        x, y = data.x[pick], (data.y[pick] == pair[1]).long()
        weights = dict(net.named_parameters())
        loss = F.cross_entropy(functional_call(net, weights, (x[:16],)), y[:16])
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        fast = {k: w - 0.5 * g for (k, w), g in zip(weights.items(), slopes, strict=True)}
        out = functional_call(net, fast, (x[16:],))
        descend(motor, F.cross_entropy(out, y[16:]))
        if step >= steps - 20:
            wrong.append(float((out.argmax(1) != y[16:]).float().mean()))
    return 2 * sum(wrong) / len(wrong)


class Codes(nn.Module):
    """The nearest of 32 codes; `through` lets the gradient pass the choice as if it were none."""

    def __init__(self, width: int, through: bool) -> None:
        super().__init__()
        self.book = nn.Parameter(torch.randn(32, width) / width**0.5)
        self.through = through

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = self.book[torch.cdist(z, self.book).argmin(1)]
        loss = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return (z + (code - z).detach() if self.through else code), loss


def codes(seed: int, *, optimizer: Optimizer = adam(3e-3), steps: int = 200) -> float:
    """An autoencoder of digits whose middle is one of 32 learned codes for each of four parts."""
    torch.manual_seed(seed)
    data = tasks.repaint()
    down = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    middle, up = Codes(8, True), nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
    net = nn.ModuleList([down, middle, up])
    motor = optimizer(net.parameters())
    for xb, _ in batches(data.x, data.y, 64, steps, seed):
        code, extra = middle(down(xb).view(-1, 8))
        descend(motor, F.mse_loss(up(code.view(-1, 32)), xb) + extra)
    with torch.no_grad():
        return measure("squares", up(middle(down(data.x).view(-1, 8))[0].view(-1, 32)), data.x)


def carried(seed: int, *, lr: float = 1e-2, steps: int = 120) -> float:
    """An LSTM that reads on: its state is carried over and cut between the windows."""
    torch.manual_seed(seed)
    long = tasks.code(400)
    lanes = torch.cat([long.x[:16], long.y[:16, -1:]], 1)
    embed, rnn = nn.Embedding(long.size, 16), nn.LSTM(16, 48, batch_first=True)
    head = nn.Linear(48, long.out)
    net = nn.ModuleList([embed, rnn, head])
    motor = torch.optim.Adam(net.parameters(), lr=lr)
    state: tuple[torch.Tensor, torch.Tensor] | None = None
    seen = []
    for step in range(steps):
        at = (step * 20) % 380
        if at == 0:
            state = None
        out, state = rnn(embed(lanes[:, at : at + 20]), state)
        state = (state[0].detach(), state[1].detach())
        y = lanes[:, at + 1 : at + 21]
        out = head(out)
        descend(motor, tasks.token_loss(out, y))
        seen.append(measure("entropy", out.detach(), y))
    return sum(seen[-10:]) / 10


def mean_teacher(seed: int, *, lr: float = 3e-3, steps: int = 150) -> float:
    """Sixty labels; the rest must be answered as a slow copy of the student answers it."""
    torch.manual_seed(seed)
    data = tasks.digits()
    student = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    teacher = copy.deepcopy(student).requires_grad_(False)
    motor = torch.optim.Adam(student.parameters(), lr=lr)
    for xb, _ in batches(data.x, data.y, 64, steps, seed):
        agree = F.mse_loss(student(xb).softmax(1), teacher(xb).softmax(1))
        descend(motor, F.cross_entropy(student(data.x[:60]), data.y[:60]) + 2 * agree)
        with torch.no_grad():
            for slow, p in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(p, 0.05)
    with torch.no_grad():
        return measure("entropy", teacher.eval()(data.x), data.y)


def siamese(
    seed: int,
    *,
    kind: str = "same",
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    steps: int = 150,
) -> float:
    """Pairs of digits: are they the same? Or triplets: which is nearer?"""
    torch.manual_seed(seed)
    data = tasks.digits()
    body = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 16))
    surgery(body)
    motor = optimizer(body.parameters())
    for xb, yb in batches(data.x, data.y, 64, steps, seed):
        z = body(xb)
        if kind == "same":
            apart = (z[:32] - z[32:]).square().sum(1)
            same = (yb[:32] == yb[32:]).float()
            away = F.relu(2 - (apart + 1e-8).sqrt()).square()
            descend(motor, (same * apart + (1 - same) * away).mean())
            continue
        far = torch.cdist(z, z)
        same = yb[:, None] == yb
        hardest = (far * same).amax(1) - (far + 1e3 * same).amin(1)
        descend(motor, F.softplus(hardest).mean())
    return centroids(body, data.x, data.y)


def tasks_weighted(seed: int, *, lr: float = 3e-3, steps: int = 150) -> float:
    """Which digit, and how much ink: two heads whose weights are learned as uncertainties."""
    torch.manual_seed(seed)
    data = tasks.digits()
    ink = data.x.mean(1, keepdim=True)
    ink = (ink - ink.mean()) / ink.std()
    body, one, two = (
        nn.Sequential(nn.Linear(64, 64), nn.ReLU()),
        nn.Linear(64, 10),
        nn.Linear(64, 1),
    )
    doubt = nn.Parameter(torch.zeros(2))
    net = nn.ModuleList([body, one, two])
    motor = torch.optim.Adam([*net.parameters(), doubt], lr=lr)
    for pick, _ in batches(torch.arange(len(ink)), data.y, 64, steps, seed):
        h = body(data.x[pick])
        losses = torch.stack([F.cross_entropy(one(h), data.y[pick]), F.mse_loss(two(h), ink[pick])])
        descend(motor, ((-doubt).exp() * losses + doubt).sum())
    with torch.no_grad():
        h = body(data.x)
        return max(measure("entropy", one(h), data.y), measure("squares", two(h), ink))


class Recomputed(nn.Module):
    """Gradient checkpointing around each of a model's blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + checkpoint(self.inner, x, use_reentrant=False)


class Flowing(nn.Module):
    """Ten Euler steps along a small field: the same layer ten times over."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(10):
            x = x + 0.1 * self.field(x)
        return x


class Doubtful(nn.Module):
    """A linear layer whose weights are drawn anew at every call, by reparametrisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, width)
        self.spread = nn.Parameter(torch.full((width, width), -4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(self.spread) * F.softplus(self.spread)
        return F.relu(self.mean(x) + x @ noise)


def written_weights(width: int = 16) -> Build:
    """A network that writes the weights of the one that answers."""

    class Writer(nn.Module):
        def __init__(self, task: Task) -> None:
            super().__init__()
            self.sizes = (task.x.shape[1], task.out)
            self.code = nn.Parameter(torch.randn(width))
            self.write = nn.Linear(width, self.sizes[0] * self.sizes[1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.write(self.code).view(*self.sizes) / x.shape[1] ** 0.5

    return Writer
