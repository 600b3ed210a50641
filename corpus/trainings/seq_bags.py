"""Networks to which order means little: filters and their maxima, hashed pairs, deep sets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.networks import Part
from corpus.trainings.tasks import Task


class Kim(nn.Module):
    """Convolutions of several widths over characters, their maxima, dropout, a classifier."""

    def __init__(self, task: Task, width: int, drop: float) -> None:
        super().__init__()
        self.table = nn.Embedding(task.size, width, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(width, width, k, padding=k - 1) for k in (2, 3, 4))
        self.drop, self.answer = nn.Dropout(drop), nn.Linear(3 * width, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = self.table(x).transpose(1, 2)
        h = torch.cat([F.relu(f(e)).amax(2) for f in self.filters], 1)
        return self.out(self.answer(self.drop(h)))


class Grams(nn.Module):
    """fastText: the mean of the embeddings of hashed pairs of characters, sparse if asked."""

    def __init__(self, task: Task, width: int, sparse: bool) -> None:
        super().__init__()
        self.size = task.size
        self.bag = nn.EmbeddingBag(task.size**2, width, mode="mean", sparse=sparse)
        self.answer = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(self.bag(x[:, 1:] * self.size + x[:, :-1]))


class DeepSet(nn.Module):
    """phi of each element, a sum or a maximum, rho of the whole."""

    def __init__(self, task: Task, width: int, how: str, act: Part) -> None:
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(task.x.shape[-1], width), act(), nn.Linear(width, width), act()
        )
        self.rho = nn.Sequential(nn.Linear(width, width), act(), nn.Linear(width, task.out))
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.phi(x)
        return self.rho(h.sum(1) if self.how == "sum" else h.amax(1))
