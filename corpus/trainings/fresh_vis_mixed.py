"""Mixtures of experts, adversarial domains, mixed precision as its recipe has it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings.fit import Build
from corpus.trainings.tasks import Loss, Task, digits, measure

Tensor = torch.Tensor


class Experts(nn.Module):
    """gate, experts.i; the gate's shares of the last batch are kept for the balancing loss."""

    def __init__(self, task: Task, count: int, width: int) -> None:
        super().__init__()
        inputs = task.x.shape[1]
        self.gate = nn.Linear(inputs, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, task.out))
            for _ in range(count)
        )
        self.shares = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.shares = self.gate(x).softmax(1)
        top, which = self.shares.topk(2, 1)
        kept = torch.zeros_like(self.shares).scatter(1, which, top / top.sum(1, keepdim=True))
        return (kept[:, :, None] * torch.stack([e(x) for e in self.experts], 1)).sum(1)


def experts(
    seed: int,
    *,
    task: Callable[[], Task],
    count: int = 4,
    width: int = 24,
    balance: float = 0.01,
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    zero: bool = True,
    steps: int = 200,
) -> float:
    """Two of four experts answer each sample; an even use of them is rewarded."""
    torch.manual_seed(seed)
    data = task()
    x = prepare(data.x)
    net = Experts(data, count, width)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pick = torch.randint(len(x), (48,), generator=dice)
        loss = data.loss(net(x[pick]), data.y[pick])
        loss = loss + balance * count * net.shares.mean(0).square().sum()
        if zero:
            motor.zero_grad()
        loss.backward()
        motor.step()
    with torch.no_grad():
        return measure(data.metric, net(x), data.y)


class Reverse(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: object, x: Tensor, share: float) -> Tensor:
        ctx.share = share  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.share * grad, None  # type: ignore[attr-defined]


def domains(
    seed: int,
    *,
    most: float = 0.5,
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    steps: int = 150,
) -> float:
    """Labels for upright ink, none for inverted ink; the features shall not tell them apart."""
    torch.manual_seed(seed)
    data = digits()
    one, two = data.x, -0.7 * data.x + 0.3 * torch.randn_like(data.x)
    features = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    label = nn.Linear(32, 10)
    domain = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    net = nn.ModuleDict({"features": features, "label": label, "domain": domain})
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    side = torch.cat([torch.zeros(48, 1), torch.ones(48, 1)])
    for step in range(steps):
        a = torch.randint(len(one), (48,), generator=dice)
        b = torch.randint(len(two), (48,), generator=dice)
        h = features(torch.cat([one[a], two[b]]))
        share = most * (2 / (1 + 2.718 ** (-10 * step / steps)) - 1)
        told = domain(Reverse.apply(h, share))
        loss = F.cross_entropy(label(h[:48]), data.y[a])
        loss = loss + F.binary_cross_entropy_with_logits(told, side)
        motor.zero_grad()
        loss.backward()
        motor.step()
    with torch.no_grad():
        return measure("entropy", label(features(one)), data.y)


def precise(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    dtype: torch.dtype = torch.float16,
    scale: float | None = 2.0**10,
    loss: Loss | None = None,
    accumulate: int = 2,
    clip: float | None = 1.0,
    optimizer: Optimizer = adam(2e-3),
    surgery: Surgery = untouched,
    batch: int = 32,
    steps: int = 100,
) -> float:
    """The AMP recipe: autocast, a scaler (None: without), accumulation, unscaling, clipping."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for count in range(steps * accumulate):
        pick = torch.randint(len(data.x), (batch,), generator=dice)
        with torch.autocast("cpu", dtype=dtype):
            out = net(data.x[pick])
            value = (loss or data.loss)(out.float(), data.y[pick]) / accumulate
        scaler.scale(value).backward()
        if (count + 1) % accumulate:
            continue
        if clip is not None:
            scaler.unscale_(motor)
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        scaler.step(motor)
        scaler.update()
        motor.zero_grad(set_to_none=True)
    net.eval()
    with torch.no_grad():
        return measure(data.metric, net(data.x[:600]), data.y[:600])
