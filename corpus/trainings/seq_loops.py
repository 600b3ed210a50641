"""Loops over sequences and graphs as people write them; each gives its share of a trivial error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings import seq_tasks, tasks
from corpus.trainings.fit import Build
from corpus.trainings.tasks import Loss, Task, measure

Schedule = Callable[[torch.optim.Optimizer], Any]


def norm_clip(limit: float) -> Callable[[Iterable[torch.Tensor]], object]:
    """Gradients no longer than a limit."""
    return partial(nn.utils.clip_grad_norm_, max_norm=limit)


def epochs(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    count: int = 3,
    batch: int = 32,
    surgery: Surgery = untouched,
    schedule: Schedule | None = None,
    each_step: bool = True,
    clip: float | None = None,
    loss: Loss | None = None,
    zero: bool = True,
    poison: Poison = same_batch,
    limit: int = 250,
) -> float:
    """DataLoader, train() and evaluate() on the last fifth after each epoch."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    surgery(net)
    part = len(data.x) * 4 // 5
    loader = DataLoader(
        TensorDataset(data.x[:part], data.y[:part]), batch_size=batch, shuffle=True, drop_last=True
    )
    motor, criterion = optimizer(net.parameters()), loss or data.loss
    plan, now, step = schedule(motor) if schedule else None, 1.0, 0
    for _ in range(count):
        net.train()
        for pair in loader:
            x, y = poison(step, *pair)
            step += 1
            if step > limit:
                break
            value = criterion(net(x), y)
            if zero:
                motor.zero_grad(set_to_none=True)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            motor.step()
            if plan is not None and each_step:
                plan.step()
        if plan is not None and not each_step:
            plan.step()
        net.eval()
        with torch.no_grad():
            now = measure(data.metric, net(data.x[part:]), data.y[part:])
    return now


def carried(
    seed: int,
    *,
    series: str = "mackey",
    kind: type[nn.RNNCellBase] = nn.GRUCell,
    width: int = 32,
    span: int = 12,
    optimizer: Optimizer = adam(3e-3),
    clip: float | None = 1.0,
    cut: bool = True,
    zero: bool = True,
    ahead: int = 3,
    radius: float | None = None,
    poison: Poison = same_batch,
    scale_input: float = 1.0,
    steps: int = 150,
) -> float:
    """Truncated backpropagation: lanes of a series are read on and on, the state is cut between."""
    torch.manual_seed(seed)
    x = seq_tasks.path(series)
    long = len(x) // 8
    lanes = torch.stack([x[i * long : (i + 1) * long] for i in range(8)])
    cell, head = kind(x.shape[1], width), nn.Linear(width, x.shape[1])  # type: ignore[call-arg]
    if radius is not None:
        nn.init.orthogonal_(cell.weight_hh, gain=radius)
    net = nn.ModuleDict({"cell": cell, "head": head})
    motor = optimizer(net.parameters())
    state, at, seen = None, 0, []
    for step in range(steps):
        if at + span + ahead >= long:
            at, state = 0, None
        xb, yb = poison(step, lanes[:, at : at + span], lanes[:, at + ahead : at + ahead + span])
        told = []
        for part in (xb * scale_input).unbind(1):
            state = cell(part, state)
            told.append(head(state[0] if isinstance(state, tuple) else state))
        loss = F.mse_loss(torch.stack(told, 1), yb)
        if zero:
            motor.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
        if cut and state is not None:
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        at += span
        seen.append(float(loss.detach()))
    return sum(seen[-20:]) / 20


def _pairs(words: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Every word of the manual and one near it, and how many words there are."""
    data = tasks.words(words)
    ids = torch.cat([data.x, data.y[:, -1:]], 1)
    one, two = ids[:, :-1].flatten(), ids[:, 1:].flatten()
    keep = (one > 0) & (two > 0)
    return one[keep], two[keep], data.size


def skipgram(
    seed: int,
    *,
    optimizer: Optimizer = lambda p: torch.optim.SparseAdam(list(p), lr=2e-2),
    width: int = 24,
    sparse: bool = True,
    spread: float = 0.1,
    factor: float = 1.0,
    batch: int = 128,
    zero: bool = True,
    score: Callable[[torch.Tensor], torch.Tensor] = lambda s: s,
    steps: int = 250,
) -> float:
    """word2vec: true neighbours against four words drawn by frequency; share of the constant's."""
    torch.manual_seed(seed)
    one, two, size = _pairs(12)
    words, near = (nn.Embedding(size, width, sparse=sparse) for _ in range(2))
    nn.init.normal_(words.weight, std=spread)
    nn.init.normal_(near.weight, std=spread)
    net = nn.ModuleDict({"words": words, "near": near})
    motor = optimizer(net.parameters())
    often = torch.bincount(two, minlength=size).double() ** 0.75
    seen = []
    for _ in range(steps):
        pick = torch.randint(len(one), (batch,))
        false = torch.multinomial(often, 4 * batch, True).view(batch, 4)
        target = torch.cat([two[pick][:, None], false], 1)
        scores = score((near(target) @ words(one[pick])[:, :, None])[..., 0])
        truth = torch.zeros_like(scores)
        truth[:, 0] = 1.0
        loss = F.binary_cross_entropy_with_logits(scores, truth)
        if zero:
            motor.zero_grad()
        (factor * loss).backward()
        motor.step()
        seen.append(float(loss.detach()))
    constant = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    return sum(seen[-30:]) / 30 / constant


def glove(
    seed: int,
    *,
    optimizer: Optimizer = lambda p: torch.optim.Adagrad(p, lr=0.1),
    logs: Callable[[torch.Tensor], torch.Tensor] = torch.log,
    top: float = 0.75,
    factor: float = 1.0,
    spread: float = 0.2,
    steps: int = 200,
) -> float:
    """GloVe: logarithms of how often words meet as products; share of their weighted variance."""
    torch.manual_seed(seed)
    one, two, size = _pairs(12)
    code, often = torch.unique(one * size + two, return_counts=True)
    i, j, often = code // size, code % size, often.float()
    words, near = nn.Embedding(size, 16), nn.Embedding(size, 16)
    lean, tilt = nn.Embedding(size, 1), nn.Embedding(size, 1)
    net = nn.ModuleList([words, near, lean, tilt])
    for p in net.parameters():
        nn.init.normal_(p, std=spread)
    motor = optimizer(net.parameters())
    weight = (often / often.max()) ** top
    goal = often.log()
    mean = (weight * goal).sum() / weight.sum()
    for _ in range(steps):
        pick = torch.randint(len(i), (512,))
        a, b = i[pick], j[pick]
        guess = (words(a) * near(b)).sum(1) + lean(a)[:, 0] + tilt(b)[:, 0]
        loss = (weight[pick] * (guess - logs(often[pick])).square()).mean()
        motor.zero_grad()
        (factor * loss).backward()
        motor.step()
    with torch.no_grad():
        guess = (words(i) * near(j)).sum(1) + lean(i)[:, 0] + tilt(j)[:, 0]
        wrong = (weight * (guess - goal).square()).sum()
        return float(wrong / (weight * (goal - mean).square()).sum())
