"""Networks that read one sequence and write another: what stands behind column `cut` of x."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.seq_formers import Block, Feed, Heads
from corpus.trainings.tasks import Task


class Bahdanau(nn.Module):
    """A bidirectional GRU reads; a GRU cell writes and looks back by additive attention."""

    def __init__(self, task: Task, width: int, cut: int) -> None:
        super().__init__()
        self.signs = nn.Embedding(task.size, width)
        self.encoder = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.decoder = nn.GRUCell(2 * width, width)
        self.mine, self.yours = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1)
        self.extra: nn.Module = nn.Identity()
        self.speak = nn.Linear(2 * width, task.out)
        self.out: nn.Module = nn.Identity()
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        asked, told = self.signs(x).split([self.cut, x.shape[1] - self.cut], 1)
        memory, last = self.encoder(asked)
        h = last.transpose(0, 1).flatten(1)
        known, said = self.yours(memory), []
        for part in told.unbind(1):
            weight = self.score((known + self.mine(h)[:, None]).tanh()).softmax(1)
            seen = (weight * memory).sum(1)
            h = self.decoder(torch.cat([part, seen], 1), h)
            said.append(self.speak(self.extra(torch.cat([h, seen], 1))))
        return self.out(torch.stack(said, 1))


class Luong(nn.Module):
    """A reversed LSTM reads, another writes, and each step looks back by a product."""

    def __init__(self, task: Task, width: int, cut: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(task.size, width), nn.Embedding(task.size, width)
        self.read = nn.LSTM(width, width, batch_first=True)
        self.write = nn.LSTM(width, width, batch_first=True)
        self.join, self.speak = nn.Linear(2 * width, width), nn.Linear(width, task.out)
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory, state = self.read(self.source(x[:, : self.cut].flip(1)))
        h, _ = self.write(self.target(x[:, self.cut :]), state)
        seen = (h @ memory.transpose(1, 2)).softmax(-1) @ memory
        return self.speak(self.join(torch.cat([h, seen], -1)).tanh())


class Across(nn.Module):
    """A transformer's encoder and decoder: encode.i, self-attention, cross-attention, feed."""

    def __init__(self, task: Task, width: int, cut: int, depth: int) -> None:
        super().__init__()
        self.signs = nn.Embedding(task.size, width)
        self.place = nn.Parameter(0.1 * torch.randn(task.x.shape[1], width))
        self.encode = nn.ModuleList(
            Block(width, Heads(width), Feed(width, nn.ReLU()), "pre") for _ in range(depth)
        )
        self.look = nn.ModuleList(Heads(width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.decode = nn.ModuleList(
            Block(width, Heads(width, causal=True), Feed(width, nn.ReLU()), "pre")
            for _ in range(depth)
        )
        self.close, self.speak = nn.LayerNorm(width), nn.Linear(width, task.out)
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory, h = (self.signs(x) + self.place).split([self.cut, x.shape[1] - self.cut], 1)
        for block in self.encode:
            memory = block(memory)
        for block, look, norm in zip(self.decode, self.look, self.norms, strict=True):
            h = block(h + look(norm(h), memory))
        return self.speak(self.close(h))


class Pointer(nn.Module):
    """An LSTM reads the row; the answer is a place in it, found by additive attention."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(task.x.shape[-1], width)
        self.read = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.key, self.ask = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.point = nn.Linear(width, 1, bias=False)
        self.extra: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.extra(self.read(self.lift(x))[0])
        ask = self.ask(h.mean(1, keepdim=True))
        return self.point((self.key(h) + ask).tanh())[..., 0]


class Reduced(nn.Module):
    """Blocks of bottleneck in time for a series: each takes its part of what is left (N-BEATS)."""

    def __init__(
        self,
        task: Task,
        width: int,
        depth: int,
        deep: int,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        length = task.x.shape[1]
        self.stacks = nn.ModuleList()
        for _ in range(depth):
            parts: list[nn.Module] = [nn.Linear(length, width), nn.ReLU()]
            for _ in range(deep):
                middle = [norm(width)] if norm else []
                parts += [nn.Linear(width, width), *middle, nn.ReLU()]
            self.stacks.append(nn.Sequential(*parts, nn.Linear(width, length + task.out)))
        self.length = length

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = x.new_zeros(())
        for stack in self.stacks:
            past, future = stack(x).split([self.length, stack[-1].out_features - self.length], 1)
            x, answer = x - past, answer + future
        return answer


class Split(nn.Module):
    """DLinear: a moving average and the rest, each by one linear map."""

    def __init__(self, task: Task, span: int = 5) -> None:
        super().__init__()
        length = task.x.shape[1]
        self.slow, self.quick = nn.Linear(length, task.out), nn.Linear(length, task.out)
        self.span = span

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = F.pad(x[:, None], (self.span // 2, self.span // 2), mode="replicate")
        slow = F.avg_pool1d(wide, self.span, 1)[:, 0]
        return self.slow(slow) + self.quick(x - slow)


def writer(kind: type[nn.Module], width: int = 48, cut: int = 18, **more: int) -> Build:
    """One of these networks for a task whose question ends at column `cut`."""
    return lambda task: kind(task, width, cut, **more)
