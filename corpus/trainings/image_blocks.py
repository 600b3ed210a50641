"""Blocks of convolutional networks, each of one width; and the tower that they are stacked to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Part = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


def conv(inputs: int, width: int, size: int = 3, **more: int) -> nn.Conv2d:
    """A convolution that keeps the size of its image unless it has a stride."""
    padding = size // 2 * more.get("dilation", 1)
    return nn.Conv2d(inputs, width, size, padding=padding, **more)  # type: ignore[arg-type]


class Plain(nn.Module):
    """conv, norm, act; with a skip around all of it, times `share`."""

    def __init__(
        self,
        width: int,
        act: Part = nn.ReLU,
        norm: Norm | None = None,
        skip: bool = False,
        share: float = 1.0,
        size: int = 3,
    ) -> None:
        super().__init__()
        self.conv = conv(width, width, size)
        self.norm = norm(width) if norm else nn.Identity()
        self.act, self.skip, self.share = act(), skip, share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.norm(self.conv(x)))
        return x + self.share * h if self.skip else h


class Basic(nn.Module):
    """Two convolutions, each normalised, and a ReLU behind the sum, as in the first ResNets."""

    def __init__(self, width: int, skip: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(width, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + h if self.skip else h)


class Before(nn.Module):
    """Norm and activation stand before each of two convolutions; sometimes all is skipped."""

    def __init__(self, width: int, norm: Norm = nn.BatchNorm2d, keep: float = 1.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width), conv(width, width)
        self.norm2, self.conv2 = norm(width), conv(width, width)
        self.keep = keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and float(torch.rand(())) > self.keep:
            return x
        h = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(h)))


class Inverted(nn.Module):
    """Wide, one filter for each channel, weighted by what it holds, and narrow again."""

    def __init__(self, width: int, expand: int = 3) -> None:
        super().__init__()
        wide = width * expand
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(
            conv(wide, wide, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.squeeze, self.excite = nn.Linear(wide, width), nn.Linear(width, wide)
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.depthwise(self.expand(x))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3))))))
        return x + self.project(h * gate[:, :, None, None])


class Next(nn.Module):
    """A large depthwise filter, layer norm, a wide step between, and a small learned scale."""

    def __init__(self, width: int, first: float = 0.1) -> None:
        super().__init__()
        self.dwconv, self.norm = conv(width, width, 5, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), first))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.permute(0, 3, 1, 2)


class Branches(nn.Module):
    """Filters of three sizes and a pool, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        part = width // 4
        self.one = nn.Conv2d(width, part, 1)
        self.three = nn.Sequential(nn.Conv2d(width, part, 1), nn.ReLU(), conv(part, part))
        self.five = nn.Sequential(nn.Conv2d(width, part, 1), nn.ReLU(), conv(part, part, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(width, width - 3 * part, 1))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.one(x), self.three(x), self.five(x), self.pool(x)]
        return F.relu(self.norm(torch.cat(parts, 1)))


class Growing(nn.Module):
    """Each layer sees all before it; at the end a narrow convolution goes back to one width."""

    def __init__(self, width: int, layers: int = 3, grow: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width + i * grow), nn.ReLU(), conv(width + i * grow, grow))
            for i in range(layers)
        )
        self.transition = nn.Conv2d(width + layers * grow, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.transition(x)


class Shuffled(nn.Module):
    """Convolutions in groups, with the channels dealt anew between them."""

    def __init__(self, width: int, groups: int = 4) -> None:
        super().__init__()
        self.gconv1 = nn.Conv2d(width, width, 1, groups=groups)
        self.dconv = conv(width, width, groups=width)
        self.gconv2 = nn.Conv2d(width, width, 1, groups=groups)
        self.norm1, self.norm2, self.groups = nn.BatchNorm2d(width), nn.BatchNorm2d(width), groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(self.gconv1(x)))
        h = h.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return F.relu(x + self.gconv2(self.norm2(self.dconv(h))))


class Standardised(nn.Conv2d):
    """A convolution each of whose filters has mean zero and spread one."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.flatten(1).std(1)[:, None, None, None] * math.sqrt(w[0].numel()) + 1e-5)
        return F.conv2d(input, w, self.bias, padding=self.padding)


class StandardisedBlock(nn.Module):
    """A standardised convolution, group norm, and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = Standardised(width, width, 3, padding=1), nn.GroupNorm(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.silu(self.norm(self.conv(x)))


class Attentive(nn.Module):
    """A convolution, then attention to channels, then to places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(width, width), nn.BatchNorm2d(width)
        self.channels = nn.Sequential(
            nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width)
        )
        self.places = conv(2, 1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm(self.conv(x)))
        gate = self.channels(h.mean((2, 3))) + self.channels(h.amax((2, 3)))
        h = h * gate.sigmoid()[:, :, None, None]
        seen = torch.stack([h.mean(1), h.amax(1)], 1)
        return x + h * self.places(seen).sigmoid()


class Zeroed(nn.Module):
    """No norm: two convolutions and a skip whose other side is opened by a scale of zero."""

    def __init__(self, width: int, first: float = 0.0) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width), conv(width, width)
        self.open = nn.Parameter(torch.full((), first))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.open * self.conv2(F.relu(self.conv1(x)))


class Waves(nn.Module):
    """A filter as large as the image, multiplied in the space of frequencies."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.GroupNorm(1, width), nn.Conv2d(width, width, 1)
        self.filter = nn.Parameter(0.05 * torch.randn(width, side, side // 2 + 1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.fft.rfft2(self.norm(x), norm="ortho") * torch.view_as_complex(self.filter)
        return x + F.gelu(self.mix(torch.fft.irfft2(seen, s=x.shape[2:], norm="ortho")))


class Quarters(nn.Module):
    """One filter in four turned copies, of which the strongest answer counts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(width, width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.conv.weight
        seen = [F.conv2d(x, torch.rot90(w, k, (2, 3)), self.conv.bias, padding=1) for k in range(4)]
        return x + F.relu(self.norm(torch.stack(seen).amax(0)))


class Mixed(nn.Module):
    """A depthwise filter with a skip, then a mix of the channels, each behind GELU and a norm."""

    def __init__(self, width: int, size: int = 5) -> None:
        super().__init__()
        self.depthwise, self.norm1 = conv(width, width, size, groups=width), nn.BatchNorm2d(width)
        self.pointwise, self.norm2 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.norm1(F.gelu(self.depthwise(x)))
        return self.norm2(F.gelu(self.pointwise(x)))


class Tower(nn.Module):
    """stem, blocks.i with a pool behind the first of them, extra, fc and out."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], features: int, out: int) -> None:
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.extra: nn.Module = nn.Identity()
        self.after = len(blocks) // 2
        self.mean = self.pool = True
        self.fc = nn.Linear(features, out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 0 and self.pool:
                x = F.max_pool2d(x, 2)
            if i == self.after:
                x = self.extra(x)
        x = x.mean((2, 3)) if self.mean else F.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.out(self.fc(x))


def tower(
    block: Callable[[int], nn.Module],
    depth: int = 3,
    width: int = 16,
    *,
    act: Part = nn.ReLU,
    mean: bool = False,
    stride: int = 1,
    size: int = 3,
    pool: bool = True,
) -> Build:
    """A convolution and an activation, `depth` blocks of one width, the mean or a 2x2 rest, fc."""

    def build(task: Task) -> nn.Module:
        stem = nn.Sequential(conv(task.x.shape[1], width, size, stride=stride), act())
        blocks = [block(width) for _ in range(depth)]
        net = Tower(stem, blocks, width if mean else 4 * width, task.out)
        net.mean, net.pool = mean, pool
        return net

    return build
