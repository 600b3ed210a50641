"""Siamese pairs, SimCLR, few-shot prototypes; several heads, experts, adversarial domains, Cox."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings.fit import Build
from corpus.trainings.fresh_vis_tasks import lifespans, shape_parts
from corpus.trainings.loops import centroids
from corpus.trainings.tasks import Task, digits, measure

Tensor = torch.Tensor


def embedder(task: Task) -> nn.Module:
    """The small network that most pages on embeddings use."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 16),
    )  # fmt: skip


def safe(a: Tensor, b: Tensor) -> Tensor:
    """torch's own distance, which keeps away from zero."""
    return F.pairwise_distance(a, b)


def siamese(
    seed: int,
    *,
    model: Build = embedder,
    optimizer: Optimizer = adam(1e-3),
    far: Callable[[Tensor, Tensor], Tensor] = safe,
    margin: float = 2.0,
    surgery: Surgery = untouched,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    steps: int = 180,
) -> float:
    """Hadsell's contrastive loss on pairs of which half are of one class (some of one image)."""
    torch.manual_seed(seed)
    data = digits((1, 8, 8))
    x, y = prepare(data.x), data.y
    net = model(data)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    groups = [(y == c).nonzero()[:, 0][:60] for c in range(10)]
    for _ in range(steps):
        a = torch.randint(600, (64,), generator=dice)
        b = torch.randint(600, (64,), generator=dice)
        for i in range(0, 64, 2):  # a partner of the same class, now and then the image itself
            group = groups[int(y[a[i]])]
            b[i] = group[int(torch.randint(len(group), (1,), generator=dice))]
        b[0] = a[0]
        same = (y[a] == y[b]).float()
        d = far(net(x[a]), net(x[b]))
        loss = (same * d.square() + (1 - same) * F.relu(margin - d).square()).mean()
        motor.zero_grad()
        loss.backward()
        motor.step()
    return centroids(net, x, y)


def nt_xent(z: Tensor, heat: float) -> Tensor:
    """The loss of SimCLR with torch's own cross-entropy."""
    z = F.normalize(z, dim=1)
    scores = (z @ z.T / heat).fill_diagonal_(-1e9)
    half = len(z) // 2
    return F.cross_entropy(scores, torch.arange(len(z)).roll(half))


def nt_xent_by_hand(z: Tensor, heat: float) -> Tensor:
    """The same with exponentials, as many repositories have it."""
    z = F.normalize(z, dim=1)
    half = len(z) // 2
    e = (z @ z.T / heat).exp()
    e = e * (1 - torch.eye(len(z), dtype=e.dtype))
    own = e[torch.arange(len(z)), torch.arange(len(z)).roll(half)]
    return -(own / e.sum(1)).log().mean()


def simclr(
    seed: int,
    *,
    loss: Callable[[Tensor, float], Tensor] = nt_xent,
    heat: float = 0.2,
    cast: Callable[[Tensor], Tensor] = lambda z: z,
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    steps: int = 120,
) -> float:
    """Two shifted, noisy views of each digit; named by class means of the trunk's features."""
    torch.manual_seed(seed)
    data = digits((1, 8, 8))
    net, head = embedder(data), nn.Sequential(nn.ReLU(), nn.Linear(16, 16))
    whole = nn.Sequential(net, head)
    surgery(whole)
    motor = optimizer(whole.parameters())
    dice = torch.Generator().manual_seed(seed)

    def view(x: Tensor) -> Tensor:
        moved = x.roll(int(torch.randint(-1, 2, (1,))), 2).roll(int(torch.randint(-1, 2, (1,))), 3)
        return moved + 0.3 * torch.randn_like(x)

    for _ in range(steps):
        xb = data.x[torch.randint(len(data.x), (48,), generator=dice)]
        z = whole(torch.cat([view(xb), view(xb)]))
        motor.zero_grad()
        loss(cast(z), heat).float().backward()
        motor.step()
    return centroids(net, data.x, data.y)


def prototypes(
    seed: int,
    *,
    optimizer: Optimizer = adam(2e-3),
    score: Callable[[Tensor, Tensor], Tensor] = lambda q, p: -torch.cdist(q, p).square(),
    surgery: Surgery = untouched,
    model: Build = embedder,
    poison: Poison = same_batch,
    steps: int = 100,
) -> float:
    """Few-shot episodes: five classes, five shots, ten questions each (Snell et al. 2017)."""
    torch.manual_seed(seed)
    data = digits((1, 8, 8))
    net = model(data)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    groups = [(data.y == c).nonzero()[:, 0] for c in range(10)]
    goal = torch.arange(5).repeat_interleave(10)
    for step in range(steps):
        kinds = torch.randperm(10, generator=dice)[:5].tolist()
        picks = torch.stack([
            groups[c][torch.randperm(len(groups[c]), generator=dice)[:15]] for c in kinds
        ])  # fmt: skip
        x, _ = poison(step, data.x[picks.flatten()], goal)
        z = net(x).view(5, 15, -1)
        out = score(z[:, 5:].flatten(0, 1), z[:, :5].mean(1))
        motor.zero_grad()
        F.cross_entropy(out, goal).backward()
        motor.step()
    return centroids(net, data.x, data.y)


class Several(nn.Module):
    """trunk, kind, box, mask and a log variance for each answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        self.kind, self.box = nn.Linear(16 * width, 4), nn.Linear(16 * width, 3)
        self.mask = nn.Conv2d(width, 1, 3, padding=1)
        self.log_vars = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        flat = self.pool(h)
        return self.kind(flat), self.box(flat), self.mask(h)


def three_heads(
    seed: int,
    *,
    width: int = 10,
    optimizer: Optimizer = adam(5e-3),
    weights: tuple[float, float, float] | None = None,
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    zero: bool = True,
    steps: int = 120,
) -> float:
    """Kind, box and mask of a shape, weighted by hand or by learned variances (Kendall)."""
    torch.manual_seed(seed)
    x, kind, mask, box = shape_parts()
    net = Several(width)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    for step in range(steps):
        pick = torch.randint(len(x), (32,), generator=dice)
        xb, goal = poison(step, x[pick], box[pick])
        a, b, c = net(xb)
        losses = torch.stack([
            F.cross_entropy(a, kind[pick]), F.mse_loss(b, goal),
            F.binary_cross_entropy_with_logits(c, mask[pick]),
        ])  # fmt: skip
        if weights is None:
            total = ((-net.log_vars).exp() * losses + net.log_vars).sum()
        else:
            total = (torch.tensor(weights) * losses).sum()
        if zero:
            motor.zero_grad()
        total.backward()
        motor.step()
    net.eval()
    with torch.no_grad():
        a, b, c = net(x[:400])
        shares = (measure("error", a, kind[:400]), measure("squares", b, box[:400]),
                  measure("bits", c, mask[:400]))  # fmt: skip
    return sum(shares) / 3


def breslow(risk: Tensor, event: Tensor) -> Tensor:
    """Cox's partial likelihood of a batch in order of falling time."""
    return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp_min(1)


def cox(
    seed: int,
    *,
    model: Build,
    loss: Callable[[Tensor, Tensor], Tensor] = breslow,
    optimizer: Optimizer = adam(3e-3),
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    surgery: Surgery = untouched,
    batch: int = 64,
    steps: int = 150,
) -> float:
    """DeepSurv; the share of comparable pairs in the wrong order, over the half of chance."""
    torch.manual_seed(seed)
    x, time, event = lifespans()
    x = prepare(x)
    net = model(Task(x, event[:, None], F.mse_loss, 1, "squares"))
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pick = torch.randperm(len(x), generator=dice)[:batch]
        pick = pick[time[pick].argsort(descending=True)]
        motor.zero_grad()
        loss(net(x[pick])[:, 0], event[pick]).backward()
        motor.step()
    net.eval()
    with torch.no_grad():
        risk = net(x)[:, 0]
    pairs = (time[:, None] < time) & (event[:, None] > 0)
    if not bool(risk.isfinite().all()):
        return float("nan")
    wrong = (risk[:, None] < risk).float() + 0.5 * (risk[:, None] == risk).float()
    return float(wrong[pairs].mean() / 0.5)
