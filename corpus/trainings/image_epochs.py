"""Training by epochs, as most scripts do it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings import tasks
from corpus.trainings.fit import Build, everything
from corpus.trainings.tasks import Task, measure


def by_epochs(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    batch: int = 64,
    epochs: int = 4,
    limit: int = 1200,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    choose: Callable[[nn.Module], Iterable[Any]] = everything,
    renew: bool = False,
    best: bool = False,
    zero: bool = True,
    prepare: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    loss: tasks.Loss | None = None,
) -> float:
    """A loader, epochs, a validation after each, a schedule by epochs, the best weights kept.

    renew: a new optimizer for each epoch. prepare: what the data set does to its images.
    """
    torch.manual_seed(seed)
    data = task()
    x, y = prepare(data.x[:limit]), data.y[:limit]
    cut = len(x) * 4 // 5
    loader = DataLoader(TensorDataset(x[:cut], y[:cut]), batch, shuffle=True, drop_last=True)
    net = model(data)
    surgery(net)
    motor = optimizer(choose(net))
    plan = schedule(motor) if schedule else None
    kept, lowest = copy.deepcopy(net.state_dict()), float("inf")
    for _ in range(epochs):
        net.train()
        motor = optimizer(choose(net)) if renew else motor
        for xb, yb in loader:
            if zero:
                motor.zero_grad(set_to_none=True)
            (loss or data.loss)(net(xb), yb).backward()
            motor.step()
        net.eval()
        with torch.inference_mode():
            now = float(data.loss(net(x[cut:]), y[cut:]))
        if plan is not None:
            plan.step()
        if now < lowest:
            kept, lowest = copy.deepcopy(net.state_dict()), now
    if best:
        net.load_state_dict(kept)
    with torch.no_grad():
        return measure(data.metric, net(x), y)
