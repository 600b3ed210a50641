"""Real data that travels inside packages, as tasks with a trivial answer to be measured against."""

from __future__ import annotations

import argparse
import ast
import html.entities
import inspect
import pydoc_data.topics
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs x [N, ...], answers y [N, ...], and how a model's answer is judged.

    out: numbers that the model gives for each answer; size: the alphabet where x holds tokens.
    metric: "entropy" (cross-entropy), "error" (share of wrong labels), "squares" or "bits".
    edges: [2, E] where the samples are nodes of one graph.
    """

    x: torch.Tensor
    y: torch.Tensor
    loss: Loss
    out: int
    metric: str = "entropy"
    size: int = 0
    edges: torch.Tensor | None = None


def token_loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of out [N, T, C] and y [N, T]."""
    return F.cross_entropy(out.flatten(0, 1), y.flatten())


def measure(metric: str, out: torch.Tensor, y: torch.Tensor) -> float:
    """The error of an answer as a share of the best constant answer's (1: no better)."""
    out = out.double()
    if metric == "squares":
        return float((out - y).square().mean(0).sum() / y.double().var(0, correction=0).sum())
    if metric == "bits":
        p = (y > 0.5).double().mean(0)
        wrong = ((out > 0) != (y > 0.5)).double().mean(0)
        return float(wrong.sum() / torch.minimum(p, 1 - p).sum())
    out, y = out.reshape(-1, out.shape[-1]), y.flatten()
    p = torch.bincount(y).double() / len(y)
    if metric == "error":
        return float((out.argmax(1) != y).double().mean() / (1 - p.max()))
    return float(F.cross_entropy(out, y) / -(p[p > 0] * p[p > 0].log()).sum())


@cache
def _table(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    bunch = getattr(datasets, f"load_{name}")()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(np.asarray(bunch.data), dtype=torch.float32)
    return x[order], torch.tensor(np.asarray(bunch.target))[order]


def _standard(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) / x.std(0)


def table(name: str, metric: str = "entropy", raw: bool = False) -> Task:
    """iris [150, 4], wine [178, 13] or breast_cancer [569, 30]; raw: in the units of its makers."""
    x, y = _table(name)
    return Task(x if raw else _standard(x), y, F.cross_entropy, int(y.max()) + 1, metric)


def tumours(loss: Loss = F.binary_cross_entropy_with_logits, raw: bool = False) -> Task:
    """breast_cancer with answers [569, 1] of zero and one."""
    x, y = _table("breast_cancer")
    return Task(x if raw else _standard(x), y.float()[:, None], loss, 1, "bits")


def diabetes(unit: float = 77.0, origin: float = 152.0, loss: Loss = F.mse_loss) -> Task:
    """diabetes [442, 10]; the answers [442, 1] are counted from `origin` in units of `unit`."""
    x, y = _table("diabetes")
    return Task(_standard(x), (y.float()[:, None] - origin) / unit, loss, 1, "squares")


def linnerud(raw: bool = False) -> Task:
    """linnerud: three exercises [20, 3] and three measures of the body [20, 3]."""
    x, y = _table("linnerud")
    y = y.float()
    return Task(_standard(x), y if raw else _standard(y), F.mse_loss, 3, "squares")


def digits(
    shape: tuple[int, ...] = (64,), metric: str = "entropy", loss: Loss | None = None
) -> Task:
    """1797 digits, standardised globally, as [N, *shape], with labels [N]."""
    x, y = _table("digits")
    x = (x - x.mean()) / x.std()
    return Task(x.view(-1, *shape), y, loss or F.cross_entropy, 10, metric)


def repaint(shape: tuple[int, ...] = (64,), noise: float = 0.0, loss: Loss = F.mse_loss) -> Task:
    """Digits [N, *shape] to be given back as they were before `noise` was added."""
    x = digits(shape).x
    y = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return Task(y, x, loss, 64, "squares")


def ink() -> Task:
    """Noisy images [N, 1, 8, 8]; the answer says for each pixel whether there is ink."""
    x = digits((1, 8, 8)).x
    noisy = x + 0.7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return Task(noisy, (x > 0).float(), F.binary_cross_entropy_with_logits, 1, "bits")


@cache
def _prose() -> list[str]:
    topics = "\n".join(v for _, v in sorted(pydoc_data.topics.topics.items()))
    code = inspect.getsource(argparse) + inspect.getsource(ast) + inspect.getsource(textwrap)
    return [topics[:60_000], code[:60_000], inspect.getsource(html.entities)[:60_000]]


def _windows(text: str, alphabet: dict[str, int], count: int, length: int) -> torch.Tensor:
    ids = torch.tensor([alphabet[c] for c in text])
    starts = torch.randint(
        len(ids) - length, (count, 1), generator=torch.Generator().manual_seed(2)
    )
    return ids[starts + torch.arange(length)]


@cache
def _alphabet() -> dict[str, int]:
    return {c: i for i, c in enumerate(sorted(set("".join(_prose()))))}


def code(length: int = 24) -> Task:
    """The standard library's source, 2000 windows of characters; the answer is the next one."""
    alphabet = _alphabet()
    ids = _windows(_prose()[1], alphabet, 2000, length + 1)
    return Task(ids[:, :-1], ids[:, 1:], token_loss, len(alphabet), size=len(alphabet))


def words(length: int = 12) -> Task:
    """Python's manual by words, the 300 most frequent and one for all others; next word."""
    split = _prose()[0].split()
    common = [w for w, _ in sorted(_counts(split).items(), key=lambda p: (-p[1], p[0]))[:300]]
    index = {w: i + 1 for i, w in enumerate(common)}
    ids = torch.tensor([index.get(w, 0) for w in split])
    starts = torch.randint(len(ids) - length, (1500, 1), generator=torch.Generator().manual_seed(3))
    ids = ids[starts + torch.arange(length + 1)]
    return Task(ids[:, :-1], ids[:, 1:], token_loss, 301, size=301)


def _counts(split: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in split:
        counts[word] = counts.get(word, 0) + 1
    return counts


def sources(length: int = 24, metric: str = "entropy") -> Task:
    """Windows of manual, code or character tables; the answer says from which of them."""
    alphabet = _alphabet()
    x = torch.cat([_windows(t, alphabet, 500, length) for t in _prose()])
    y = torch.arange(3).repeat_interleave(500)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    return Task(x[order], y[order], F.cross_entropy, 3, metric, len(alphabet))


def graph(name: str, neighbours: int = 6, metric: str = "entropy", limit: int = 500) -> Task:
    """A table's samples as nodes, joined to their nearest neighbours in both directions."""
    base = digits() if name == "digits" else table(name)
    x, y = base.x[:limit], base.y[:limit]
    near = torch.cdist(x, x).topk(neighbours + 1, largest=False).indices[:, 1:]
    one = torch.arange(len(x)).repeat_interleave(neighbours)
    two = near.flatten()
    edges = torch.cat([torch.stack([one, two]), torch.stack([two, one])], 1).unique(dim=1)
    return Task(x, y, F.cross_entropy, base.out, metric, edges=edges)
