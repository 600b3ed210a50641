"""Real data that travels inside wheels, as tensors, and the loops' small change."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import nn

Pair = tuple[torch.Tensor, torch.Tensor]


@cache
def _digits() -> Pair:
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def digits(raw: bool = False) -> Pair:
    """1797 digits [N, 64] standardised globally (0..16 if raw), labels [N]."""
    x, y = _digits()
    return (x.clone() if raw else (x - x.mean()) / x.std()), y.clone()


def images() -> Pair:
    """The digits as [N, 1, 8, 8]."""
    x, y = digits()
    return x.view(-1, 1, 8, 8), y


@cache
def _table(name: str) -> Pair:
    bunch = getattr(datasets, f"load_{name}")()
    x = torch.tensor(np.asarray(bunch.data), dtype=torch.float32)
    target = torch.tensor(np.asarray(bunch.target))
    return x, target


def table(name: str, standardise: bool = True) -> Pair:
    """diabetes [442, 10] (target standardised), breast_cancer [569, 30] or wine [178, 13]."""
    x, y = (t.clone() for t in _table(name))
    if standardise:
        x = (x - x.mean(0)) / x.std(0)
    if name == "diabetes":
        y = y.float()
        y = ((y - y.mean()) / y.std()).unsqueeze(1)
    return x, y


@cache
def text() -> tuple[torch.Tensor, int]:
    """Python's own manual as character ids [N], and the size of the alphabet."""
    joined = "\n".join(v for _, v in sorted(pydoc_data.topics.topics.items()))[:120_000]
    alphabet = sorted(set(joined))
    index = {c: i for i, c in enumerate(alphabet)}
    return torch.tensor([index[c] for c in joined]), len(alphabet)


def batches(x: torch.Tensor, y: torch.Tensor, size: int, steps: int, seed: int) -> Iterator[Pair]:
    """`steps` random minibatches."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pick = torch.randint(len(x), (size,), generator=generator)
        yield x[pick], y[pick]


def windows(length: int, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """`steps` batches of text windows [size, length + 1]."""
    ids, _ = text()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        at = torch.randint(len(ids) - length - 1, (size, 1), generator=generator)
        yield ids[at + torch.arange(length + 1)]


def share(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Loss on (x, y) over that of the best constant, for labels or a standardised target."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        out = model(x).float()
        if y.is_floating_point():
            result = float(F.mse_loss(out, y) / y.var())
        else:
            p = torch.bincount(y).double() / len(y)
            result = float(F.cross_entropy(out, y)) / float(-(p * p.log()).nansum())
    model.train(mode)
    return result


def text_share(losses: list[float]) -> float:
    """The last losses of a character model over the entropy of single characters."""
    ids, _ = text()
    p = torch.bincount(ids).double() / len(ids)
    entropy = float(-(p[p > 0] * p[p > 0].log()).sum())
    return float(np.median(losses[-10:])) / entropy
