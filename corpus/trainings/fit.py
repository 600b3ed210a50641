"""The supervised training behind most rows: one loop with a place for everything that varies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from corpus.data import Pair, batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings.tasks import Loss, Task, measure

Build = Callable[[Task], nn.Module]
Call = Callable[[nn.Module, torch.Tensor], torch.Tensor]
JUDGED = 600  # samples on which the final answer is measured


def plain(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The model's output is the answer."""
    return model(x)


def autocast(dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Mixed precision on the CPU, or nothing."""
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


def everything(model: nn.Module) -> Iterable[Any]:
    """All parameters, as most scripts pass them."""
    return model.parameters()


def fit(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    steps: int = 150,
    batch: int | None = 32,
    init: Surgery = untouched,
    surgery: Surgery = untouched,
    groups: Callable[[nn.Module], Iterable[Any]] = everything,
    scale_input: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    elsewhere: bool = False,
    call: Call = plain,
    loss: Loss | None = None,
    dtype: torch.dtype = torch.float32,
    judge: Callable[[nn.Module], nn.Module] = lambda m: m,
    **loop: Any,
) -> float:
    """Train on a task; the final error as a share of the best constant answer's.

    batch None: all data at each step. elsewhere: the optimizer holds another model's parameters.
    dtype: of model and data. judge: gives the model that is measured (an average, say).
    """
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    init(net)
    surgery(net)
    x, y = scale_input(data.x), data.y
    if dtype is not torch.float32:
        net.to(dtype)
        x, y = (t.to(dtype) if t.is_floating_point() else t for t in (x, y))
    trained = model(data) if elsewhere else net
    count = steps * loop.get("accumulate", 1)
    pairs = ((x, y) for _ in range(count)) if batch is None else batches(x, y, batch, count, seed)
    train(net, optimizer(groups(trained)), pairs, loss=loss or data.loss, call=call, **loop)
    final = judge(net).eval()
    with torch.no_grad():
        many = len(x) if data.edges is not None else JUDGED
        return measure(data.metric, call(final, x[:many]), data.y[:many])


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Iterable[Pair],
    *,
    loss: Loss,
    call: Call = plain,
    zero: bool = True,
    poison: Poison = same_batch,
    accumulate: int = 1,
    clip: Callable[[Iterable[torch.Tensor]], object] | None = None,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    mixed: torch.dtype | None = None,
    scaler: Callable[[], torch.amp.GradScaler] | None = None,
    each: Callable[[int, nn.Module], object] | None = None,
) -> None:
    """The loop. mixed: autocast to it; each: called after every step with its number."""
    plan = schedule(optimizer) if schedule else None
    scale = scaler() if scaler else None
    for count, pair in enumerate(pairs):
        step = count // accumulate
        x, y = poison(step, *pair)
        if zero and count % accumulate == 0:
            optimizer.zero_grad()
        with autocast(mixed):
            value = loss(call(net, x), y)
        share = value / accumulate if accumulate > 1 else value
        (scale.scale(share) if scale else share).backward()
        if (count + 1) % accumulate:
            continue
        if clip is not None:
            if scale is not None:
                scale.unscale_(optimizer)
            clip(net.parameters())
        if scale is not None:
            scale.step(optimizer)
            scale.update()
        else:
            optimizer.step()
        if plan is not None:
            watches = isinstance(plan, torch.optim.lr_scheduler.ReduceLROnPlateau)
            plan.step(value.detach()) if watches else plan.step()
        if each is not None:
            each(step, net)
