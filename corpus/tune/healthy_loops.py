"""Healthy trainings in unusual loops: fine-tuning, schedules, precision, scaling."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from corpus import fast_healthy_case, healthy_case
from corpus.data import batches, digits, share, table
from corpus.tune.healthy import fit


def _mlp(width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


@fast_healthy_case
def frozen_backbone(seed: int) -> float:
    """A body trained on six digits, frozen; a new head for all ten."""
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    few = y < 6
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), batches(x[few], y[few], 64, 80, seed))
    for p in model[:4].parameters():
        p.requires_grad_(False)
    model[4] = nn.Linear(64, 10)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    fit(model, optimizer, batches(x, y, 64, 120, seed))
    return share(model, x, y)


class Adapter(nn.Module):
    """A frozen linear layer with a low-rank detour whose second factor starts at zero."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


@fast_healthy_case
def lora_adapters(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    for i in (0, 2, 4):
        model[i] = Adapter(model[i])  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    fit(model, optimizer, batches(x, y, 64, 200, seed))
    return share(model, x, y)


class TwoHeads(nn.Module):
    """Returns two outputs of which the script uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.head, self.unused = nn.Linear(64, 10), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x)
        return self.head(h), self.unused(h)


@healthy_case
def unused_head(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = TwoHeads()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    fit(model, optimizer, batches(x, y, 64, 200, seed), lambda out, t: F.cross_entropy(out[0], t))
    with torch.no_grad():
        return float(F.cross_entropy(model(x)[0], y)) / 2.3


@healthy_case
def ema_copy(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for xb, yb in batches(x, y, 64, 200, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
    return share(average, x, y)


@fast_healthy_case
def converged_long_ago(seed: int) -> float:
    """The loss is about 1e-6 for the last half of the run."""
    torch.manual_seed(seed)
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 3))
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-2), [(x, y)] * 300)
    return share(model, x, y)


@healthy_case
def full_batch_descent(seed: int) -> float:
    """Plain gradient descent on all data, near the edge of stability."""
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    fit(model, torch.optim.SGD(model.parameters(), lr=0.7), [(x[:600], y[:600])] * 200)
    return share(model, x, y)


@healthy_case
def warmup_from_zero_cosine_to_zero(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s / 30 if s < 30 else 0.5 * (1 + np.cos(np.pi * (s - 30) / 170))
    )
    for xb, yb in batches(x, y, 64, 200, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        schedule.step()
    return share(model, x, y)


@healthy_case
def autocast_bfloat16(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for xb, yb in batches(x, y, 64, 150, seed):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        optimizer.step()
    return share(model, x, y)


@fast_healthy_case
def accumulation_of_four(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.zero_grad()
    for i, (xb, yb) in enumerate(batches(x, y, 16, 480, seed)):
        (F.cross_entropy(model(xb), yb) / 4).backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    return share(model, x, y)


@healthy_case
def accumulation_undivided(seed: int) -> float:
    """Eight micro-batches summed and not divided; Adam does not care."""
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    source = batches(x, y, 8, 800, seed)
    for _ in range(100):
        optimizer.zero_grad()
        for _ in range(8):
            xb, yb = next(source)
            F.cross_entropy(model(xb), yb).backward()
        optimizer.step()
    return share(model, x, y)


@healthy_case
def clipping_at_a_tenth(seed: int) -> float:
    """Clipping that acts at every step, with a learning rate to match."""
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for xb, yb in batches(x, y, 64, 200, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    return share(model, x, y)


def _scaled(seed: int, factor: float, reduction: str = "mean") -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    whole = factor * (64 if reduction == "sum" else 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.15 / whole)
    for xb, yb in batches(x, y, 64, 250, seed):
        optimizer.zero_grad()
        (factor * F.cross_entropy(model(xb), yb, reduction=reduction)).backward()
        optimizer.step()
    return share(model, x, y)


@fast_healthy_case
def sum_reduction_adjusted(seed: int) -> float:
    return _scaled(seed, 1.0, "sum")


@fast_healthy_case
def loss_times_1e_minus_8_adjusted(seed: int) -> float:
    return _scaled(seed, 1e-8)


@healthy_case
def loss_times_128_adjusted(seed: int) -> float:
    return _scaled(seed, 128.0)


@healthy_case
def grad_scaler_float32(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.15)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for xb, yb in batches(x, y, 64, 200, seed):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(xb), yb)).backward()
        scaler.step(optimizer)
        scaler.update()
    return share(model, x, y)


@healthy_case
def lbfgs_closure(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + 1e-3 * sum(
            p.square().sum() for p in model.parameters()
        )
        loss.backward()
        return loss

    for _ in range(30):
        optimizer.step(closure)
    return share(model, x, y)


@healthy_case
def two_models_one_script(seed: int) -> float:
    """A classifier and a regressor side by side, each with its own optimizer."""
    torch.manual_seed(seed)
    x, y = digits()
    u, v = table("diabetes")
    first, second = _mlp(), nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
    one = torch.optim.SGD(first.parameters(), lr=0.2)
    two = torch.optim.Adam(second.parameters(), lr=5e-3)
    pairs = zip(batches(x, y, 64, 150, seed), batches(u, v, 32, 150, seed), strict=True)
    for (xb, yb), (ub, vb) in pairs:
        one.zero_grad()
        F.cross_entropy(first(xb), yb).backward()
        one.step()
        two.zero_grad()
        F.mse_loss(second(ub), vb).backward()
        two.step()
    return max(share(first, x, y), share(second, u, v))


@healthy_case
def hyperparameter_loop(seed: int) -> float:
    """Five models in a row, the best learning rate wins."""
    torch.manual_seed(seed)
    x, y = digits()
    best = 1.0
    for lr in (0.05, 0.1, 0.2, 0.3, 0.4):
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        fit(model, torch.optim.SGD(model.parameters(), lr=lr), batches(x, y, 64, 100, seed))
        best = min(best, share(model, x, y))
    return best


@healthy_case
def descent_by_hand(seed: int) -> float:
    """No torch.optim at all."""
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    for xb, yb in batches(x, y, 64, 200, seed):
        model.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.15 * p.grad  # type: ignore[operator]
    return share(model, x, y)


@healthy_case
def mixed_losses(seed: int) -> float:
    """Classification, reconstruction and an L1 penalty with weights of their own."""
    torch.manual_seed(seed)
    x, y = digits()
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    head, back = nn.Linear(64, 10), nn.Linear(64, 64)
    model = nn.ModuleDict({"body": body, "head": head, "back": back})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for xb, yb in batches(x, y, 64, 200, seed):
        h = body(xb)
        loss = F.cross_entropy(head(h), yb) + 0.3 * F.mse_loss(back(h), xb) + 1e-3 * h.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return share(nn.Sequential(body, head), x, y)


@healthy_case
def short_smoke_run(seed: int) -> float:
    """Eight steps, to see whether the script starts."""
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), batches(x, y, 64, 8, seed))
    return share(model, x, y)


@healthy_case
def continued_from_checkpoint(seed: int) -> float:
    """The second half of a training: it begins where the loss is already low."""
    torch.manual_seed(seed)
    x, y = digits()
    model = _mlp()
    first = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(model, first, batches(x, y, 64, 150, seed))
    again = _mlp()
    again.load_state_dict(model.state_dict())
    second = torch.optim.Adam(again.parameters(), lr=1e-3)
    second.load_state_dict(first.state_dict())
    fit(again, second, batches(x, y, 64, 150, seed + 1))
    return share(again, x, y)
