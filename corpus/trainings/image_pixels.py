"""Networks that answer with images: cleaning, enlarging, colouring, filling, parting."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.image_blocks import Norm, Part, conv
from corpus.trainings.tasks import Task


def _colours(task: Task) -> int:
    return task.y.shape[1]


class Cleaner(nn.Module):
    """layers.i and last; the last layer's answer is what to take away from the image."""

    def __init__(
        self, task: Task, depth: int, width: int, norm: Norm | None, act: Part, take: bool
    ) -> None:
        super().__init__()
        inputs = [task.x.shape[1]] + [width] * (depth - 1)
        self.layers = nn.ModuleList(
            nn.Sequential(conv(i, width), norm(width) if norm else nn.Identity(), act())
            for i in inputs
        )
        self.extra: nn.Module = nn.Identity()
        self.last, self.take = conv(width, _colours(task)), take
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i == 0:
                h = self.extra(h)
        h = self.last(h)
        return self.out(x - h if self.take else h)


def cleaner(
    depth: int = 4,
    width: int = 16,
    norm: Norm | None = nn.BatchNorm2d,
    act: Part = nn.ReLU,
    take: bool = True,
) -> Build:
    """A fully convolutional network: layers.i.{0,1,2}, extra, last."""
    return lambda task: Cleaner(task, depth, width, norm, act, take)


class Enlarger(nn.Module):
    """Filters on the small image; the channels of the last become the pixels between."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, width, 5), conv(width, width)
        self.conv3, self.shuffle = conv(width, 4 * _colours(task)), nn.PixelShuffle(2)
        self.act = nn.PReLU(width)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv2(self.act(self.conv1(x))))
        return self.out(self.shuffle(self.conv3(x)))


def enlarger(width: int = 24) -> Build:
    """conv1, conv2, conv3, shuffle."""
    return lambda task: Enlarger(task, width)


class Ladder(nn.Module):
    """A U-Net of two steps; with `gate` each bridge is weighted by what waits on the other side."""

    def __init__(self, task: Task, width: int, norm: Norm, act: Part, gate: bool) -> None:
        super().__init__()

        def pair(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(conv(a, b), norm(b), act(), conv(b, b), norm(b), act())

        self.down1, self.down2 = pair(task.x.shape[1], width), pair(width, 2 * width)
        self.bottom = pair(2 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, 2 * width, 2, 2)
        self.join2 = pair(4 * width, width)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.join1 = pair(2 * width, width)
        self.gates = nn.ModuleList([nn.Conv2d(4 * width, 1, 1), nn.Conv2d(2 * width, 1, 1)])
        self.gate = gate
        classes = task.y.dim() == 3
        self.last = nn.Conv2d(width, task.out if classes else _colours(task), 1)
        self.classes = classes
        self.out: nn.Module = nn.Identity()

    def _bridge(self, i: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        both = torch.cat([left, right], 1)
        if self.gate:
            both = torch.cat([left * self.gates[i](both).sigmoid(), right], 1)
        return both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        h = self.bottom(F.max_pool2d(two, 2))
        h = self.join2(self._bridge(0, two, self.up2(h)))
        h = self.last(self.join1(self._bridge(1, one, self.up1(h))))
        return self.out(h.permute(0, 2, 3, 1) if self.classes else h)


def ladder(
    width: int = 8, norm: Norm = nn.BatchNorm2d, act: Part = nn.ReLU, gate: bool = False
) -> Build:
    """A U-Net: down1, down2, bottom, up2, join2, up1, join1, last."""
    return lambda task: Ladder(task, width, norm, act, gate)


class Funnel(nn.Module):
    """Strided convolutions down to a code, transposed ones up again: encoder, extra, decoder."""

    def __init__(self, task: Task, width: int, code: int, act: Part) -> None:
        super().__init__()
        inputs, side = task.x.shape[1], task.x.shape[2] // 4
        rest = 2 * width * side * side
        self.encoder = nn.Sequential(
            conv(inputs, width, stride=2),
            act(),
            conv(width, 2 * width, stride=2),
            act(),
            nn.Flatten(),
            nn.Linear(rest, code),
        )
        self.extra: nn.Module = nn.Identity()
        self.decoder = nn.Sequential(
            nn.Linear(code, rest),
            act(),
            nn.Unflatten(1, (2 * width, side, side)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            act(),
            nn.ConvTranspose2d(width, _colours(task), 4, 2, 1),
        )
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.decoder(self.extra(self.encoder(x))))


def funnel(width: int = 12, code: int = 16, act: Part = nn.ReLU) -> Build:
    """An autoencoder: encoder.{0,2,5}, extra, decoder.{0,3,5}, out."""
    return lambda task: Funnel(task, width, code, act)


class Widening(nn.Module):
    """Filters whose holes grow from layer to layer, each added to what was there."""

    def __init__(self, task: Task, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = conv(task.x.shape[1], width)
        self.layers = nn.ModuleList(conv(width, width, dilation=r) for r in rates)
        self.norms = nn.ModuleList(nn.InstanceNorm2d(width, affine=True) for _ in rates)
        self.last = nn.Conv2d(width, _colours(task), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.leaky_relu(norm(layer(x)), 0.1)
        return self.last(x)


def widening(width: int = 16, rates: tuple[int, ...] = (1, 2, 4, 1)) -> Build:
    """A dilated network without any pooling."""
    return lambda task: Widening(task, width, rates)


class Filler(nn.Module):
    """Gated convolutions that know where the hole is."""

    def __init__(self, task: Task, width: int, depth: int) -> None:
        super().__init__()
        inputs = [task.x.shape[1]] + [width] * (depth - 1)
        self.layers = nn.ModuleList(conv(i, 2 * width) for i in inputs)
        self.last = conv(width, _colours(task))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            a, b = layer(x).chunk(2, 1)
            x = F.elu(a) * b.sigmoid()
        return self.last(x)


def filler(width: int = 16, depth: int = 4) -> Build:
    """layers.i, last."""
    return lambda task: Filler(task, width, depth)


class Living(nn.Module):
    """A field of cells whose channels are changed by one small rule, again and again."""

    def __init__(self, task: Task, width: int, times: int, rate: float) -> None:
        super().__init__()
        self.width, self.times, self.rate = width, times, rate
        self.see, self.rule = conv(width, 32), nn.Conv2d(32, width, 1)
        nn.init.zeros_(self.rule.weight)
        nn.init.zeros_(self.rule.bias)  # type: ignore[arg-type]
        self.colours = _colours(task)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.pad(x, (0, 0, 0, 0, 0, self.width - x.shape[1]))
        for _ in range(self.times):
            h = h + self.rate * self.rule(F.relu(self.see(h)))
        return h[:, : self.colours]


def living(width: int = 12, times: int = 8, rate: float = 0.5) -> Build:
    """A cellular automaton: see, rule."""
    return lambda task: Living(task, width, times, rate)


def sequential(*make: Callable[[], nn.Module]) -> Build:
    """An nn.Sequential of what these make; names are numbers."""
    return lambda _: nn.Sequential(*(m() for m in make))
