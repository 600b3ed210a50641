"""What goes wrong with sequences and graphs: parts to be put into a model, and spoilt data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.recipes import Optimizer, Poison, Surgery

Function = Callable[[torch.Tensor], torch.Tensor]


class Do(nn.Module):
    """A function of what passes, as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def drawn(std: float) -> Surgery:
    """Every matrix and filter from one normal distribution."""

    def change(model: nn.Module) -> None:
        for p in model.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=std)

    return change


def kaiming(model: nn.Module) -> None:
    """He's initialisation of matrices and filters over time, biases zero."""
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Conv1d)):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def biased(*names: str, value: float) -> Surgery:
    """The biases of some modules at one value."""

    def change(model: nn.Module) -> None:
        for name in names:
            nn.init.constant_(model.get_submodule(name).bias, value)  # type: ignore[arg-type]

    return change


def gate(name: str, part: int, of: int, value: float) -> Surgery:
    """One part of a vector of biases (a gate's) at a value."""

    def change(model: nn.Module) -> None:
        owner, _, last = name.rpartition(".")
        bias = getattr(model.get_submodule(owner), last)
        size = len(bias) // of
        with torch.no_grad():
            bias[part * size : (part + 1) * size] = value

    return change


def negative(name: str) -> Surgery:
    """Weights below zero, behind which a ReLU of positive numbers never opens."""

    def change(model: nn.Module) -> None:
        module = model.get_submodule(name)
        with torch.no_grad():
            module.weight.copy_(-module.weight.abs() - 0.05)  # type: ignore[operator]
            module.bias.fill_(-0.05)  # type: ignore[operator]

    return change


# Activations without a bound.
def cubed(x: torch.Tensor) -> torch.Tensor:
    """x + x^3."""
    return x + x**3


def grown(x: torch.Tensor) -> torch.Tensor:
    """x e^x: SiLU whose sigmoid was written as an exponential."""
    return x * x.exp()


def squared(x: torch.Tensor) -> torch.Tensor:
    """A squared ReLU, four times as steep."""
    return 4 * F.relu(x).square()


# Operations outside their domain.
def shares(x: torch.Tensor) -> torch.Tensor:
    """p log p of a ReLU's shares."""
    p = F.normalize(F.relu(x), p=1, dim=-1)
    return x + p * torch.log(p)


def unit(x: torch.Tensor) -> torch.Tensor:
    """What lies above a threshold, as a direction."""
    over = F.relu(x - 50)
    return x + over / over.norm(dim=-1, keepdim=True)


def distance(x: torch.Tensor) -> torch.Tensor:
    """Each step's distance from the first, which is none from itself."""
    far = (x - x[:, :1]).square().sum(-1, keepdim=True).sqrt()
    return x + 0.1 * far


def turn(x: torch.Tensor) -> torch.Tensor:
    """The angle between each step and the first, which is none from itself."""
    h = F.normalize(x, dim=-1)
    return x + 0.1 * (h * h[:, :1]).sum(-1, keepdim=True).acos()


def steps(x: torch.Tensor) -> torch.Tensor:
    """Relative change from step to step, of numbers that a ReLU has made zero."""
    h = F.relu(x)
    late = h.roll(1, 1)
    return x + 0.1 * (h - late) / late


# Numbers that leave their type.
def energy(x: torch.Tensor) -> torch.Tensor:
    """The sum of squares over a sequence, in half precision, as a share."""
    e = (100 * x.half()).square().cumsum(1)
    return x + (e / e[:, -1:].clamp_min(1e-3)).float()


def exponent(x: torch.Tensor) -> torch.Tensor:
    """Attention weights over time by a plain exponential in float32."""
    w = (100 * x).exp()
    return x + (w * x).sum(1, keepdim=True) / w.sum(1, keepdim=True)


def products(x: torch.Tensor) -> torch.Tensor:
    """The scores of each step against each, summed before they are divided, in half precision."""
    h = 80 * x.half()
    return x + 0.1 * ((h @ h.transpose(-2, -1)) / 6400).float().softmax(-1) @ x


def eighth(x: torch.Tensor) -> torch.Tensor:
    """The fourth moment, in half precision."""
    m = (10 * x.half()).pow(4).mean(-1, keepdim=True)
    return x / (1 + m.float() ** 0.25 / 10)


# Data.
def during(first: int, count: int, change: Callable[[torch.Tensor, torch.Tensor], Pair]) -> Poison:
    """`count` batches from `first` on are not like the others."""

    def poison(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
        late = first <= step < first + count
        return change(x.clone(), y.clone()) if late else (x, y)

    return poison


def sensor(value: float) -> Callable[[torch.Tensor, torch.Tensor], Pair]:
    """The last third of one sample's steps (a node's features) reads one value."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        x[1, -(len(x[1]) // 3) :] = value
        return x, y

    return change


def answer(value: float) -> Callable[[torch.Tensor, torch.Tensor], Pair]:
    """One answer is a value."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        y[2] = value
        return x, y

    return change


def unit_of(factor: float, told: bool = False) -> Callable[[torch.Tensor, torch.Tensor], Pair]:
    """The batch's inputs (or its answers) in another unit."""
    return lambda x, y: (x, factor * y) if told else (factor * x, y)


# Optimizers.
def resumed(make: Optimizer, second: float) -> Optimizer:
    """Adam that goes on from the second moments of a run that had diverged."""

    def build(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        motor = make(parameters)
        for group in motor.param_groups:
            for p in group["params"]:
                motor.state[p] = {
                    "step": torch.tensor(5000.0),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.full_like(p, second),
                }
        return motor

    return build
