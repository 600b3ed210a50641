"""Healthy recipes with one place for each fault; the faulty cases are these with one change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair, batches, digits, images, share, table

Surgery = Callable[[nn.Module], object]
Poison = Callable[[int, torch.Tensor, torch.Tensor], Pair]
Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


def sgd(lr: float, **more: Any) -> Optimizer:
    """SGD, to be built on a model's parameters."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **more)


def adam(lr: float, **more: Any) -> Optimizer:
    """Adam, to be built on a model's parameters."""
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, **more)


def adamw(lr: float, **more: Any) -> Optimizer:
    """AdamW, to be built on a model's parameters."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, **more)


def untouched(_: nn.Module) -> None:
    """No surgery."""


def same_batch(_: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
    """No poison."""
    return x, y


def he(model: nn.Module, scale: float = 1.0) -> None:
    """Kaiming initialisation for ReLU, times `scale`."""
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias) if m.bias is not None else None
            with torch.no_grad():
                m.weight.mul_(scale)


def xavier(model: nn.Module, scale: float = 1.0) -> None:
    """Xavier initialisation, times `scale`."""
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_normal_(m.weight, gain=scale)
            nn.init.zeros_(m.bias)


def gaussian(model: nn.Module, std: float) -> None:
    """Every linear and convolution weight drawn with one standard deviation."""
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(m.weight, std=std)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Iterable[Pair],
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
    zero: bool = True,
    poison: Poison = same_batch,
) -> None:
    """An ordinary loop; `zero=False` forgets zero_grad, `poison` may touch a batch."""
    for step, pair in enumerate(pairs):
        x, y = poison(step, *pair)
        if zero:
            optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()


def mlp(
    seed: int,
    *,
    depth: int = 3,
    width: int = 64,
    act: Callable[[], nn.Module] = nn.ReLU,
    init: Surgery = he,
    surgery: Surgery = untouched,
    norm: bool = False,
    optimizer: Optimizer = sgd(0.05, momentum=0.9),
    steps: int = 200,
    scale_input: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    elsewhere: bool = False,
    **loop: Any,
) -> float:
    """nn.Sequential on digits: modules "0", "1", ... (linear, [norm,] activation), last the head.

    `elsewhere` builds the optimizer over another model of the same kind.
    """
    torch.manual_seed(seed)
    x, y = digits()

    def build() -> nn.Sequential:
        parts: list[nn.Module] = []
        for i in range(depth):
            parts.append(nn.Linear(64 if i == 0 else width, width))
            parts += [nn.BatchNorm1d(width)] if norm else []
            parts.append(act())
        return nn.Sequential(*parts, nn.Linear(width, 10))

    model = build()
    init(model)
    surgery(model)
    x = scale_input(x)
    trained = build() if elsewhere else model
    train(model, optimizer(trained.parameters()), batches(x, y, 64, steps, seed), **loop)
    return share(model, x, y)


class Named(nn.Module):
    """Layers in a ModuleList with a functional activation; `middle` may be replaced."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.middle: nn.Module = nn.Identity()
        self.head = nn.Linear(width, 10)
        self.cut: int | None = None
        self.how = "detach"
        self.function: Callable[[torch.Tensor], torch.Tensor] = F.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.function(self.stem(x))
        for i, layer in enumerate(self.layers):
            if i == self.cut:
                h = self._cut(layer, h)
            else:
                h = self.function(layer(h))
            if i == len(self.layers) // 2:
                h = self.middle(h)
        return self.head(h)

    def _cut(self, layer: nn.Module, h: torch.Tensor) -> torch.Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return self.function(layer(h))
        h = self.function(layer(h))
        return h.data if self.how == "data" else h.detach()


def named(
    seed: int,
    *,
    depth: int = 4,
    width: int = 64,
    init: Surgery = he,
    surgery: Surgery = untouched,
    optimizer: Optimizer = adam(1e-3),
    steps: int = 200,
    **loop: Any,
) -> float:
    """A custom class on digits: stem, layers.0 ..., middle, head."""
    torch.manual_seed(seed)
    x, y = digits()
    model = Named(depth, width)
    init(model)
    surgery(model)
    train(model, optimizer(model.parameters()), batches(x, y, 64, steps, seed), **loop)
    return share(model, x, y)


class Conv(nn.Module):
    """A stack of 3x3 convolutions, optionally with batch norm, pooled into a head."""

    def __init__(self, depth: int, width: int, norm: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(1 if i == 0 else width, width, 3, padding=1) for i in range(depth)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(depth)
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(width * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)), inplace=True)
            if i in (0, len(self.convs) - 1):
                x = self.pool(x)
        return self.head(x.flatten(1))


def cnn(
    seed: int,
    *,
    depth: int = 3,
    width: int = 8,
    norm: bool = False,
    init: Surgery = he,
    surgery: Surgery = untouched,
    optimizer: Optimizer = sgd(0.02, momentum=0.9),
    steps: int = 120,
    **loop: Any,
) -> float:
    """A plain CNN on digits: convs.i, norms.i, pool, head."""
    torch.manual_seed(seed)
    x, y = images()
    model = Conv(depth, width, norm)
    init(model)
    surgery(model)
    train(model, optimizer(model.parameters()), batches(x, y, 32, steps, seed), **loop)
    return share(model, x, y)


def regression(
    seed: int,
    *,
    scale_input: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    surgery: Surgery = untouched,
    optimizer: Optimizer = sgd(0.02, momentum=0.9),
    steps: int = 200,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.mse_loss,
    **loop: Any,
) -> float:
    """nn.Sequential on diabetes: modules "0" to "4"."""
    torch.manual_seed(seed)
    x, y = table("diabetes")
    x = scale_input(x)
    model = nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    surgery(model)
    train(model, optimizer(model.parameters()), batches(x, y, 32, steps, seed), loss=loss, **loop)
    return share(model, x, y)


def binary(
    seed: int,
    *,
    scale_input: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.binary_cross_entropy_with_logits,
    optimizer: Optimizer = sgd(0.05),
    steps: int = 200,
    head: Callable[[], nn.Module] = nn.Identity,
    **loop: Any,
) -> float:
    """Breast cancer, yes or no, by a small net that ends in `head`."""
    torch.manual_seed(seed)
    x, y = table("breast_cancer")
    x, y = scale_input(x), y.float()[:, None]
    model = nn.Sequential(nn.Linear(30, 32), nn.Tanh(), nn.Linear(32, 1), head())
    train(model, optimizer(model.parameters()), batches(x, y, 32, steps, seed), loss=loss, **loop)
    with torch.no_grad():
        return float(loss(model(x), y)) / 0.66
