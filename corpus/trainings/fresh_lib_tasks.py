"""Tasks for other people's models: sounds from formulas, masked text, pairs, moons, sorting."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings import seq_tasks, tasks
from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task


def library(config: str, model: str, **sizes: Any) -> Build:
    """A model of transformers; letters and classes are the task's."""

    def build(task: Task) -> nn.Module:
        import transformers

        known: dict[str, Any] = {}
        if task.size:
            known = dict(vocab_size=task.size, bos_token_id=0, eos_token_id=0, pad_token_id=0)
        if "Classification" in model:
            known["num_labels"] = task.out
        return getattr(transformers, model)(getattr(transformers, config)(**{**known, **sizes}))

    return build


@cache
def sounds(count: int = 1200, length: int = 400) -> Task:
    """Sweeps [N, length] upwards, downwards, steady or beating, in noise; which of the four."""
    dice = torch.Generator().manual_seed(21)
    y = torch.randint(4, (count,), generator=dice)
    t = torch.linspace(0, 1, length)
    low = 8 + 8 * torch.rand(count, 1, generator=dice)
    sweep = (y == 0).float() - (y == 1).float()
    turn = 2 * math.pi * torch.rand(count, 1, generator=dice)
    base = torch.where(y[:, None] == 1, low + 28, low)
    wave = (2 * math.pi * (base * t + 14 * sweep[:, None] * t.square()) + turn).sin()
    beat = torch.where(y[:, None] == 3, (2 * math.pi * 3 * t).sin().abs(), 1.0)
    x = wave * beat + 0.2 * torch.randn(count, length, generator=dice)
    return Task((x - x.mean()) / x.std(), y, F.cross_entropy, 4)


@cache
def masked(share: float = 0.2) -> Task:
    """Dates in words, a share hidden behind one more letter; what was hidden, else -100."""
    plain = seq_tasks.dates()
    dice = torch.Generator().manual_seed(22)
    seen, size = plain.x[:, :18], plain.size + 1
    hide = torch.rand(seen.shape, generator=dice) < share
    x = torch.where(hide, plain.size, seen)
    return Task(x, torch.where(hide, seen, -100), tasks.token_loss, size, size=size)


@cache
def sorting(length: int = 6, letters: int = 10, count: int = 3000) -> Task:
    """Numbers [N, length] from 1; behind them what is known of the same in order."""
    x = torch.randint(1, letters + 1, (count, length), generator=torch.Generator().manual_seed(23))
    y = x.sort(1).values
    start = torch.zeros(count, 1, dtype=torch.long)
    both = torch.cat([x, start, y[:, :-1]], 1)
    return Task(both, y, tasks.token_loss, letters + 1, size=letters + 1)


@cache
def moons(name: str = "moons", count: int = 2000) -> torch.Tensor:
    """Points [N, 2] of a known figure, standardised: moons, rings or a roll."""
    from sklearn import datasets

    if name == "moons":
        x = datasets.make_moons(count, noise=0.06, random_state=0)[0]
    elif name == "rings":
        x = datasets.make_circles(count, noise=0.04, factor=0.4, random_state=0)[0]
    else:
        x = datasets.make_swiss_roll(count, noise=0.4, random_state=0)[0][:, [0, 2]]
    t = torch.tensor(x, dtype=torch.float32)
    return (t - t.mean(0)) / t.std(0)


def wider(plain: Task, size: int = 32) -> Task:
    """Digits [N, 1, 8, 8] enlarged to [N, 3, size, size], as image models want them."""
    x = F.interpolate(plain.x, size=(size, size), mode="bilinear")
    return Task(x.expand(-1, 3, -1, -1).contiguous(), plain.y, plain.loss, plain.out, plain.metric)


@cache
def big_digits(size: int = 32, metric: str = "entropy") -> Task:
    """`wider` of the digits."""
    return wider(tasks.digits((1, 8, 8), metric), size)
