"""Message passing written by hand, and torch-geometric's layers and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task


class Passing(nn.Module):
    """On matrices [N, V, V]: each node hears the sum (or mean) of what its neighbours say."""

    def __init__(
        self,
        task: Task,
        width: int,
        depth: int,
        how: str,
        act: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module],
        skip: bool,
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(2, width)
        self.said = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.kept = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(norm(width) for _ in range(depth))
        self.act, self.how, self.skip = act(), how, skip
        self.extra: nn.Module = nn.Identity()
        self.answer = nn.Linear(2 * width, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        degree = x.sum(2, keepdim=True)
        here = (degree > 0).to(x.dtype)
        h = self.act(self.lift(torch.cat([degree / 4, here], 2)))
        share = x / degree.clamp_min(1) if self.how == "mean" else x
        for i, (said, kept, norm) in enumerate(zip(self.said, self.kept, self.norms, strict=True)):
            new = self.act(norm(share @ said(h) + kept(h)))
            h = h + new if self.skip else new
            if i == 0:
                h = self.extra(h)
        h = h * here
        return self.out(self.answer(torch.cat([h.mean(1), h.amax(1)], 1)))


def passing(
    depth: int = 3,
    width: int = 32,
    how: str = "mean",
    act: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] = lambda width: nn.Identity(),
    skip: bool = False,
) -> Build:
    """Message passing on whole graphs."""
    return lambda task: Passing(task, width, depth, how, act, norm, skip)


class Powers(nn.Module):
    """A graph by the powers of its matrix, each pair of nodes a small net, everything summed."""

    def __init__(self, task: Task, width: int, orders: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(
            nn.Linear(orders, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.answer = nn.Linear(width, task.out)
        self.orders = orders

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = x / x.sum(2, keepdim=True).clamp_min(1)
        walks = [step]
        for _ in range(self.orders - 1):
            walks.append(walks[-1] @ step)
        h = self.pair(torch.stack(walks, 3))
        return self.answer((h * (x.sum(2) > 0)[:, :, None, None]).mean((1, 2)))


class Gated(nn.Module):
    """GGNN: one GRU cell for all nodes and rounds; messages by index_add over the edges."""

    def __init__(self, task: Task, width: int, rounds: int) -> None:
        super().__init__()
        self.edges: torch.Tensor
        self.register_buffer("edges", task.edges)
        self.lift = nn.Linear(task.x.shape[1], width)
        self.message, self.cell = nn.Linear(width, width), nn.GRUCell(width, width)
        self.extra: nn.Module = nn.Identity()
        self.answer = nn.Linear(width, task.out)
        self.rounds = rounds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lift(x).tanh()
        one, two = self.edges
        for _ in range(self.rounds):
            heard = torch.zeros_like(h).index_add(0, two, self.message(h)[one])
            h = self.extra(self.cell(heard, h))
        return self.answer(h)


class Looking(nn.Module):
    """Graph attention by hand over edges, with a softmax over each node's neighbours."""

    def __init__(self, task: Task, width: int, depth: int) -> None:
        super().__init__()
        self.edges: torch.Tensor
        self.register_buffer("edges", task.edges)
        self.lift = nn.Linear(task.x.shape[1], width)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.notes = nn.ModuleList(nn.Linear(2 * width, 1) for _ in range(depth))
        self.answer = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lift(x)
        one, two = self.edges
        for into, note in zip(self.maps, self.notes, strict=True):
            z = into(h)
            score = F.leaky_relu(note(torch.cat([z[one], z[two]], 1)), 0.2)
            weight = (score - score.max()).exp()
            total = torch.zeros(len(h), 1).index_add(0, two, weight)
            heard = torch.zeros_like(h).index_add(0, two, weight * z[one])
            h = h + F.elu(heard / total.clamp_min(1e-9))
        return self.answer(h)


class Spread(nn.Module):
    """APPNP: a perceptron answers for each node, then answers wander along the edges."""

    def __init__(self, task: Task, width: int, rounds: int, back: float) -> None:
        super().__init__()
        assert task.edges is not None
        size = len(task.x)
        a = torch.eye(size)
        a[task.edges[0], task.edges[1]] = 1.0
        scale = a.sum(1).rsqrt()
        self.walk: torch.Tensor
        self.register_buffer("walk", scale[:, None] * a * scale)
        self.think = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(task.x.shape[1], width),
            nn.ReLU(),
            nn.Linear(width, task.out),
        )
        self.rounds, self.back = rounds, back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = first = self.think(x)
        for _ in range(self.rounds):
            h = (1 - self.back) * self.walk @ h + self.back * first
        return h


class Layers(nn.Module):
    """stem, convs.i, norms.i of torch-geometric with an activation of its own, jump, head."""

    def __init__(
        self, task: Task, width: int, parts: list[nn.Module], norms: list[nn.Module], jump: bool
    ) -> None:
        super().__init__()
        self.edges: torch.Tensor
        self.register_buffer("edges", task.edges)
        self.stem = nn.Linear(task.x.shape[1], width)
        self.convs, self.norms = nn.ModuleList(parts), nn.ModuleList(norms)
        self.act, self.jump = nn.ELU(), jump
        self.extra: nn.Module = nn.Identity()
        self.head = nn.Linear(width * (len(parts) if jump else 1), task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, all_of = self.act(self.stem(x)), []
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = self.act(norm(conv(h, self.edges)))
            if i == 0:
                h = self.extra(h)
            all_of.append(h)
        return self.out(self.head(torch.cat(all_of, 1) if self.jump else h))


def layers(
    conv: Callable[[Any, int], nn.Module],
    depth: int = 2,
    width: int = 24,
    norm: Callable[[Any, int], nn.Module] = lambda g, w: nn.Identity(),
    jump: bool = False,
) -> Build:
    """Convolutions of torch-geometric; conv(torch_geometric.nn, width), norm the same."""

    def build(task: Task) -> nn.Module:
        import torch_geometric.nn as library

        parts = [conv(library, width) for _ in range(depth)]
        norms = [norm(library, width) for _ in range(depth)]
        return Layers(task, width, parts, norms, jump)

    return build


def ready(name: str, **options: Any) -> Build:
    """One of torch_geometric.nn.models, called with the task's own edges."""

    class Ready(nn.Module):
        def __init__(self, task: Task) -> None:
            super().__init__()
            import torch_geometric.nn as library

            self.edges: torch.Tensor
            self.register_buffer("edges", task.edges)
            make = getattr(library, name)
            self.net = make(in_channels=task.x.shape[1], out_channels=task.out, **options)
            self.out: nn.Module = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.net(x, self.edges))

    return Ready
