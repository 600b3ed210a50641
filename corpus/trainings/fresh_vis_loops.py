"""The loop of a tutorial, with its loaders, its epochs and its mistakes; and a warm-started one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings.fit import Build
from corpus.trainings.tasks import Loss, Task, digits, measure

Tensor = torch.Tensor
Backward = Callable[[Tensor], object]


def straight(loss: Tensor) -> None:
    """loss.backward(), as everyone writes it."""
    loss.backward()


def shuffled(x: Tensor, y: Tensor, batch: int, seed: int) -> DataLoader[Any]:
    """The loader of the training part."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(x, y), batch, shuffle=True, generator=order)


def advance(plan: Any, held: float) -> None:
    """One step of a schedule, if there is one; some want to know the loss."""
    if isinstance(plan, torch.optim.lr_scheduler.ReduceLROnPlateau):
        plan.step(held)
    elif plan is not None:
        plan.step()


def tutorial(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    optimizer: Optimizer = adam(1e-3),
    criterion: Loss | None = None,
    epochs: int = 6,
    batch: int = 64,
    limit: int = 900,
    init: Surgery = untouched,
    surgery: Surgery = untouched,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    poison: Poison = same_batch,
    by_epoch: Callable[[torch.optim.Optimizer], Any] | None = None,
    by_batch: Callable[[torch.optim.Optimizer], Any] | None = None,
    backward: Backward = straight,
) -> float:
    """Train by epochs with a validation after each; the error share on all that was seen."""
    torch.manual_seed(seed)
    data = task()
    x, y = prepare(data.x[:limit]), data.y[:limit]
    cut = len(x) * 9 // 10
    loader = shuffled(x[:cut], y[:cut], batch, seed)
    net = model(data)
    init(net)
    surgery(net)
    motor = optimizer(net.parameters())
    epoch_plan = by_epoch(motor) if by_epoch else None
    batch_plan = by_batch(motor) if by_batch else None
    step = 0
    for _ in range(epochs):
        net.train()
        for pair in loader:
            xb, yb = poison(step, *pair)
            motor.zero_grad()
            backward((criterion or data.loss)(net(xb), yb))
            motor.step()
            advance(batch_plan, 0.0)
            step += 1
        net.eval()
        with torch.no_grad():
            held = float(data.loss(net(x[cut:]), y[cut:]))
        advance(epoch_plan, held)
    with torch.no_grad():
        return measure(data.metric, net(x), y)


def transferred(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    head: str,
    optimizer: Optimizer = adam(3e-3),
    first: Optimizer = adam(3e-3),
    freeze: Callable[[nn.Module, str], object] = lambda net, head: None,
    renewed: bool = True,
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    batch: int = 32,
    before: int = 100,
    steps: int = 100,
) -> float:
    """Trained on the upright digits 0 to 9, then on another task of the same shape of image.

    freeze: called with the net and the head's name before the second part. renewed: the second
    optimizer is made behind the new head, not before it. The surgery is done at that time too.
    """
    torch.manual_seed(seed)
    base, data = digits((1, 8, 8)), task()
    net = model(base)
    dice = torch.Generator().manual_seed(seed)

    def run(motor: torch.optim.Optimizer, d: Task, count: int, change: Poison) -> None:
        for step in range(count):
            pick = torch.randint(len(d.x), (batch,), generator=dice)
            xb, yb = change(step, d.x[pick], d.y[pick])
            motor.zero_grad()
            d.loss(net(xb), yb).backward()
            motor.step()

    run(first(net.parameters()), base, before, same_batch)
    early = optimizer(net.parameters())
    parent, _, last = head.rpartition(".")
    old = net.get_submodule(head)
    setattr(net.get_submodule(parent), last, nn.Linear(old.in_features, data.out))  # type: ignore
    freeze(net, head)
    surgery(net)
    wanted = [p for p in net.parameters() if p.requires_grad]
    run(optimizer(wanted or net.parameters()) if renewed else early, data, steps, poison)
    net.eval()
    with torch.no_grad():
        return measure(data.metric, net(data.x[:600]), data.y[:600])


def all_but_head(net: nn.Module, head: str) -> None:
    """requires_grad = False for the trunk."""
    for name, p in net.named_parameters():
        p.requires_grad = name.startswith(head)


def distilled(
    seed: int,
    *,
    task: Callable[[], Task],
    teacher: Build,
    student: Build,
    heat: float = 4.0,
    alpha: float = 0.7,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    target: Callable[[Tensor], Tensor] = lambda t: t.softmax(1),
    guess: Callable[[Tensor], Tensor] = lambda s: s.log_softmax(1),
    factor: float = 1.0,
    zero: bool = True,
    steps: int = 150,
) -> float:
    """Hinton's blend of a teacher's soft answers and the labels."""
    torch.manual_seed(seed)
    data = task()
    wise, small = teacher(data), student(data)
    surgery(small)
    dice = torch.Generator().manual_seed(seed)
    motor = torch.optim.Adam(wise.parameters(), lr=3e-3)
    for _ in range(120):
        pick = torch.randint(len(data.x), (64,), generator=dice)
        motor.zero_grad()
        data.loss(wise(data.x[pick]), data.y[pick]).backward()
        motor.step()
    wise = copy.deepcopy(wise).eval().requires_grad_(False)
    two = optimizer(small.parameters())
    for _ in range(steps):
        pick = torch.randint(len(data.x), (64,), generator=dice)
        out = small(data.x[pick])
        soft = F.kl_div(guess(out / heat), target(wise(data.x[pick]) / heat), reduction="batchmean")
        hard = F.cross_entropy(out, data.y[pick])
        if zero:
            two.zero_grad()
        (factor * (alpha * heat**2 * soft + (1 - alpha) * hard)).backward()
        two.step()
    small.eval()
    with torch.no_grad():
        return measure(data.metric, small(data.x[:600]), data.y[:600])
