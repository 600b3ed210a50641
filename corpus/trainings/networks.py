"""Networks for tables and images, written by hand; each function returns a builder for a task."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Part = Callable[[], nn.Module]


class Dense(nn.Module):
    """linear, norm, act, drop; with `skip` added to its input."""

    def __init__(
        self, inputs: int, width: int, act: nn.Module, norm: nn.Module, drop: float, skip: bool
    ) -> None:
        super().__init__()
        self.linear, self.norm, self.act = nn.Linear(inputs, width), norm, act
        self.drop = nn.Dropout(drop)
        self.skip = skip and inputs == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(self.act(self.norm(self.linear(x))))
        return x + h if self.skip else h


class Stack(nn.Module):
    """blocks.0 ... and head; `extra` stands behind the block `after`, `out` behind the head."""

    def __init__(self, blocks: list[nn.Module], width: int, out: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.extra: nn.Module = nn.Identity()
        self.after = len(blocks) // 2
        self.head = nn.Linear(width, out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self.after:
                x = self.extra(x)
        return self.out(self.head(x))


def dense(
    depth: int = 3,
    width: int = 48,
    act: Part = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
    drop: float = 0.0,
    skip: bool = False,
) -> Build:
    """A perceptron: blocks.i.{linear,norm,act,drop}, head."""

    def build(task: Task) -> nn.Module:
        inputs = task.x.shape[-1]
        blocks: list[nn.Module] = [
            Dense(
                width if i else inputs,
                width,
                act(),
                norm(width) if norm else nn.Identity(),
                drop,
                skip,
            )
            for i in range(depth)
        ]
        return Stack(blocks, width, task.out)

    return build


class Sine(nn.Module):
    """sin(2 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(2 * x)


class Gated(nn.Module):
    """A residual block of a gated linear unit behind RMS normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.up(self.norm(x)).chunk(2, -1)
        return x + self.down(F.silu(a) * b)


class Highway(nn.Module):
    """A gate, closed at first, decides how much of the layer is let in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.plain, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate(x).sigmoid()
        return gate * F.relu(self.plain(x)) + (1 - gate) * x


class Maxout(nn.Module):
    """The largest of three linear maps."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 3 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).unflatten(-1, (-1, 3)).amax(-1)


class Signs(torch.autograd.Function):
    """Weights of plus and minus one, through which the gradient passes as if they were real."""

    @staticmethod
    def forward(ctx: object, w: torch.Tensor) -> torch.Tensor:
        return w.sign()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return grad


class BinaryLinear(nn.Linear):
    """A linear layer with binary weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, Signs.apply(self.weight) / self.in_features**0.5, self.bias)


def stacked(block: Callable[[int], nn.Module], depth: int, width: int = 32) -> Build:
    """A linear stem, `depth` blocks of one width, a head."""

    def build(task: Task) -> nn.Module:
        blocks = [nn.Linear(task.x.shape[-1], width), *(block(width) for _ in range(depth))]
        return Stack(blocks, width, task.out)

    return build


class Unit(nn.Module):
    """conv, norm, act; skip adds the input, dense appends to it."""

    def __init__(
        self, inputs: int, width: int, act: nn.Module, norm: nn.Module, how: str, groups: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1, groups=groups)
        self.norm, self.act, self.how = norm, act, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.norm(self.conv(x)))
        if self.how == "skip" and h.shape == x.shape:
            return x + h
        return torch.cat([x, h], 1) if self.how == "dense" else h


class Squeeze(nn.Module):
    """Channels weighted by what they hold on average."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width // 2), nn.Linear(width // 2, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.two(F.relu(self.one(x.mean((2, 3))))).sigmoid()
        return x * s[:, :, None, None]


class Pooled(nn.Module):
    """Halves the image and flattens it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 2).flatten(1)


def convolutions(
    depth: int = 4,
    width: int = 12,
    act: Part = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
    how: str = "plain",
    separable: bool = False,
    squeeze: bool = False,
) -> Build:
    """A CNN: blocks.i.{conv,norm,act}, a pool as the last block, head."""

    def build(task: Task) -> nn.Module:
        blocks: list[nn.Module] = []
        inputs = task.x.shape[1]
        for i in range(depth):
            groups = width if separable and i else 1
            one = norm(width) if norm else nn.Identity()
            blocks.append(Unit(inputs, width, act(), one, how, groups))
            inputs = inputs + width if how == "dense" else width
            if separable:
                blocks.append(nn.Conv2d(inputs, inputs, 1))
            if squeeze:
                blocks.append(Squeeze(inputs))
            if i == 0:
                blocks.append(nn.MaxPool2d(2))
        net = Stack([*blocks, Pooled()], inputs * 4, task.out)
        net.after = 2
        return net

    return build


class Mixer(nn.Module):
    """An MLP over places, then one over channels, each behind a norm and a skip."""

    def __init__(self, width: int, places: int = 8) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.places = nn.Sequential(nn.Linear(places, 16), nn.GELU(), nn.Linear(16, places))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class Mean(nn.Module):
    """The average over places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def mixer(depth: int = 2, width: int = 24) -> Build:
    """An MLP-mixer on rows: stem, mixers, mean, head."""

    def build(task: Task) -> nn.Module:
        parts = [nn.Linear(task.x.shape[-1], width), *(Mixer(width) for _ in range(depth)), Mean()]
        return Stack(parts, width, task.out)

    return build


class Dial(nn.Module):
    """down, up: an hourglass over flat digits with names of its own."""

    def __init__(self, widths: tuple[int, ...], act: Part, inputs: int) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.down = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        sizes.reverse()
        self.up = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.act = act()
        self.extra: nn.Module = nn.Identity()
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.down:
            x = self.act(layer(x))
        x = self.extra(x)
        for i, layer in enumerate(self.up):
            x = layer(x) if i == len(self.up) - 1 else self.act(layer(x))
        return self.out(x)


def hourglass(widths: tuple[int, ...] = (32, 12), act: Part = nn.ReLU) -> Build:
    """An autoencoder of flat digits: down.i, extra, up.i, out."""
    return lambda task: Dial(widths, act, task.x.shape[-1])


class Segmenter(nn.Module):
    """A small U-Net: down, middle, up, with one skip by concatenation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.InstanceNorm2d(2 * width), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d = self.down(x)
        u = self.up(self.middle(F.max_pool2d(d, 2)))
        return self.last(torch.cat([d, u.relu()], 1))


def unet(width: int = 8) -> Build:
    """A U-Net for images [N, 1, 8, 8]."""
    return lambda task: Segmenter(width)
