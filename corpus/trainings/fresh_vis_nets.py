"""Image networks and perceptrons as tutorials and model zoos write them, at a hundredth of size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Part = Callable[[], nn.Module]


def perceptron(
    *widths: int,
    act: Part = nn.ReLU,
    norm: bool = False,
    drop: float = 0.0,
    end: Part | None = None,
) -> Build:
    """An nn.Sequential of linear, [norm,] activation, [dropout]; names are numbers."""

    def build(task: Task) -> nn.Module:
        parts: list[nn.Module] = [nn.Flatten()]
        inputs = task.x[0].numel()
        for a, b in pairwise([inputs, *widths]):
            parts += [nn.Linear(a, b)] + ([nn.BatchNorm1d(b)] if norm else []) + [act()]
            parts += [nn.Dropout(drop)] if drop else []
        parts.append(nn.Linear(widths[-1], task.out))
        return nn.Sequential(*parts, *([end()] if end else []))

    return build


def lenet(act: Part = nn.Tanh, side: int = 8) -> Build:
    """LeNet as a course prints it: 0 conv, 1 act, 2 pool, 3 conv ... 7, 9 and 11 are linear."""
    left = side // 4

    def build(task: Task) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(task.x.shape[1], 6, 5, padding=2), act(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 3, padding=1), act(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(16 * left * left, 80), act(), nn.Linear(80, 56), act(),
            nn.Linear(56, task.out),
        )  # fmt: skip

    return build


class Vgg(nn.Module):
    """features, avgpool, classifier; "M" in the plan is a pool."""

    def __init__(self, task: Task, plan: tuple[int | str, ...], norm: bool, drop: float, act: Part):
        super().__init__()
        parts: list[nn.Module] = []
        inputs = task.x.shape[1]
        for v in plan:
            if isinstance(v, str):
                parts.append(nn.MaxPool2d(2))
                continue
            parts.append(nn.Conv2d(inputs, v, 3, padding=1))
            parts += [nn.BatchNorm2d(v)] if norm else []
            parts.append(act())
            inputs = v
        self.features = nn.Sequential(*parts)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 4, 48), act(), nn.Dropout(drop), nn.Linear(48, task.out)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg(*plan: int | str, norm: bool = False, drop: float = 0.3, act: Part = nn.ReLU) -> Build:
    """A network of 3x3 convolutions and pools."""
    return lambda task: Vgg(task, plan, norm, drop, act)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, which is a convolution where the shape changes."""

    def __init__(self, inputs: int, planes: int, stride: int, skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2, self.relu, self.skip = nn.BatchNorm2d(planes), nn.ReLU(), skip
        self.downsample: nn.Module = nn.Identity()
        if skip and (stride != 1 or inputs != planes):
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.downsample(x) if self.skip else out)


class ResNet(nn.Module):
    """conv1, bn1, layer1 ..., avgpool, fc."""

    def __init__(self, task: Task, counts: tuple[int, ...], width: int, skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(task.x.shape[1], width, 3, 1, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        inputs, self.depth = width, len(counts)
        for i, count in enumerate(counts):
            planes, stride = width * 2**i, 2 if i else 1
            blocks = [BasicBlock(inputs, planes, stride, skip)]
            blocks += [BasicBlock(planes, planes, 1, skip) for _ in range(count - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = planes
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet(*counts: int, width: int = 8, skip: bool = True) -> Build:
    """A residual network of so many blocks in each stage."""
    return lambda task: ResNet(task, counts, width, skip)


class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, each normalised."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU6(),
            nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6(),
        )  # fmt: skip


def mobilenet(width: int = 12) -> Build:
    """0 conv, 1 norm, 2 act, 3 to 5 separable, then pool, flatten, dropout, linear."""
    return lambda task: nn.Sequential(
        nn.Conv2d(task.x.shape[1], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
        Separable(width, 2 * width, 1), Separable(2 * width, 2 * width, 2),
        Separable(2 * width, 3 * width, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(3 * width, task.out),
    )  # fmt: skip


class Fire(nn.Module):
    """Squeeze to few channels, expand with filters of two sizes."""

    def __init__(self, inputs: int, few: int, many: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, few, 1)
        self.expand1x1 = nn.Conv2d(few, many, 1)
        self.expand3x3 = nn.Conv2d(few, many, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def squeezenet() -> Build:
    """No linear layer at all: the last convolution has a channel for each class."""
    return lambda task: nn.Sequential(
        nn.Conv2d(task.x.shape[1], 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        Fire(16, 6, 12), Fire(24, 6, 12), nn.MaxPool2d(2), Fire(24, 8, 16), nn.Dropout(0.2),
        nn.Conv2d(32, task.out, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Dense(nn.Module):
    """Each layer's maps are appended to those before."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + i * growth), nn.ReLU(),
                nn.Conv2d(inputs + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(layers)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet(growth: int = 6) -> Build:
    """conv, dense block, transition, dense block, norm, pool, linear."""
    a, b = 12 + 3 * growth, 12 + 3 * growth
    return lambda task: nn.Sequential(
        nn.Conv2d(task.x.shape[1], 12, 3, padding=1), Dense(12, growth, 3),
        nn.Sequential(nn.BatchNorm2d(a), nn.Conv2d(a, 12, 1), nn.AvgPool2d(2)),
        Dense(12, growth, 3), nn.BatchNorm2d(b), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(b, task.out),
    )  # fmt: skip


class DoubleConv(nn.Sequential):
    """Twice convolution, [norm,] ReLU."""

    def __init__(self, a: int, b: int, norm: bool) -> None:
        parts: list[nn.Module] = []
        for i, o in ((a, b), (b, b)):
            parts += [nn.Conv2d(i, o, 3, padding=1)] + ([nn.BatchNorm2d(o)] if norm else [])
            parts.append(nn.ReLU())
        super().__init__(*parts)


class Unet(nn.Module):
    """inc, down1, down2, up1, conv1, up2, conv2, outc, last."""

    def __init__(self, task: Task, c: int, norm: bool, join: bool) -> None:
        super().__init__()
        self.inc = DoubleConv(task.x.shape[1], c, norm)
        self.down1, self.down2 = DoubleConv(c, 2 * c, norm), DoubleConv(2 * c, 4 * c, norm)
        self.up1 = nn.ConvTranspose2d(4 * c, 2 * c, 2, 2)
        self.conv1 = DoubleConv(4 * c if join else 2 * c, 2 * c, norm)
        self.up2 = nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.conv2 = DoubleConv(2 * c if join else c, c, norm)
        self.outc, self.join = nn.Conv2d(c, task.out, 1), join
        self.last: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.inc(x)
        x2 = self.down1(F.max_pool2d(x1, 2))
        h = self.up1(self.down2(F.max_pool2d(x2, 2)))
        h = self.up2(self.conv1(torch.cat([x2, h], 1) if self.join else h))
        h = self.conv2(torch.cat([x1, h], 1) if self.join else h)
        return self.last(self.outc(h))


def unet(c: int = 6, norm: bool = True, join: bool = True) -> Build:
    """A U-Net; without `join` an encoder and a decoder."""
    return lambda task: Unet(task, c, norm, join)


class Stack(nn.Module):
    """Equal linear layers in a ModuleList, joined by skips or not: fc_in, hidden.i, fc_out."""

    def __init__(
        self, task: Task, depth: int, width: int, act: Part, norm: bool, skip: bool, sigma: float
    ) -> None:
        super().__init__()
        self.fc_in = nn.Linear(task.x[0].numel(), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth if norm else 0))
        self.act, self.skip = act(), skip
        self.fc_out = nn.Linear(width, task.out)
        for layer in self.hidden if sigma else ():
            nn.init.normal_(layer.weight, std=(sigma / width) ** 0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.fc_in(x.flatten(1)))
        for i, layer in enumerate(self.hidden):
            h = layer(x)
            h = self.norms[i](h) if len(self.norms) else h
            x = x + self.act(h) if self.skip else self.act(h)
        return self.fc_out(x)


def stack(
    depth: int, width: int = 48, act: Part = nn.ReLU, norm: bool = False, skip: bool = False,
    sigma: float = 0.0,
) -> Build:  # fmt: skip
    """Equal layers; sigma: the variance of a hidden weight times the width (0: torch's own)."""
    return lambda task: Stack(task, depth, width, act, norm, skip, sigma)
