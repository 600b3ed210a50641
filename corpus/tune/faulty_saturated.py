"""Faults that hold units where their activation is flat, and runs that end at a constant answer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from corpus import faulty_case
from corpus.recipes import (
    Optimizer,
    Surgery,
    adam,
    adamw,
    mlp,
    named,
    regression,
    sgd,
    untouched,
    xavier,
)


def scaled(layer: str, factor: float) -> Surgery:
    """Multiply the weights of one layer."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_submodule(layer).weight.mul_(factor)  # type: ignore[operator, union-attr]

    return change


def biased(layer: str, size: float) -> Surgery:
    """Give every second unit of a layer a large positive bias, and the others a negative one."""

    def change(model: nn.Module) -> None:
        bias = model.get_submodule(layer).bias
        with torch.no_grad():
            bias.fill_(size)  # type: ignore[operator, union-attr]
            bias[::2] *= -1  # type: ignore[index, operator]

    return change


TANH = dict(act=nn.Tanh, init=xavier)
faulty_case(
    "saturated_tanh_weights", mlp, "saturated", "weights_too_large", "2",
    dict(surgery=scaled("2", 1000.0)), fast=True, **TANH,
)  # fmt: skip
faulty_case(
    "saturated_tanh_last", mlp, "saturated|exploding", "weights_too_large", "4",
    dict(surgery=scaled("4", 1000.0)), optimizer=sgd(0.05), **TANH,
)  # fmt: skip
faulty_case(
    "saturated_tanh_biases", mlp, "saturated|vanishing", "saturating_activation", "2",
    dict(surgery=biased("2", 8.0)), **TANH,
)  # fmt: skip
faulty_case(
    "saturated_tanh_input", mlp, "saturated|stalled|exploding", "input_scale", None,
    dict(scale_input=lambda x: x * 200), **TANH,
)  # fmt: skip


class Lookup(nn.Module):
    """Reads out of ten tokens [B, 10, 11] the one that is marked, by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(11, 32), nn.Linear(11, 32)
        self.value, self.head = nn.Linear(11, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5
        return self.head((scores.softmax(-1) @ self.value(x)).mean(1))


def lookup(
    seed: int, *, surgery: Surgery = untouched, optimizer: Optimizer = adam(3e-3), steps: int = 250
) -> float:
    """Ten tokens in random order, each a class, one of them marked: which class is that?"""
    torch.manual_seed(seed)
    model = Lookup()
    surgery(model)
    made = optimizer(model.parameters())
    losses = []
    for _ in range(steps):
        order = torch.rand(64, 10).argsort(1)
        marked = torch.randint(10, (64,))
        x = torch.cat([F.one_hot(order, 10), F.one_hot(marked, 10)[:, :, None]], -1).float()
        made.zero_grad()
        loss = F.cross_entropy(model(x), order[torch.arange(64), marked])
        loss.backward()
        made.step()
        losses.append(float(loss.detach()))
    return float(torch.tensor(losses[-10:]).median()) / math.log(10)


def sharp(model: nn.Module) -> None:
    """Scores so large that each query picks one key, whatever is asked for."""
    with torch.no_grad():
        model.query.weight.mul_(1000)  # type: ignore[operator, union-attr]
        model.key.weight.mul_(1000)  # type: ignore[operator, union-attr]


faulty_case(
    "saturated_attention", lookup, "saturated", "weights_too_large", ("query", "key"),
    dict(surgery=sharp), steps=160,
)  # fmt: skip


class Slight(nn.Module):
    """What the samples have in common, and a little of what tells them apart."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 + self.share * x


faulty_case(
    "stalled_weight_decay", named, "stalled", "weights_too_small", None,
    dict(optimizer=sgd(0.05, momentum=0.9, weight_decay=0.3)), fast=True,
    optimizer=sgd(0.05, momentum=0.9),
)  # fmt: skip
faulty_case(
    "stalled_weight_decay_adamw", named, "stalled", "weights_too_small", None,
    dict(optimizer=adamw(1e-3, weight_decay=50.0)), optimizer=adamw(1e-3),
)  # fmt: skip
faulty_case(
    "stalled_inputs_alike", mlp, "stalled", "input_scale", None,
    dict(scale_input=Slight(0.003)), optimizer=sgd(0.05, momentum=0.9),
)  # fmt: skip
faulty_case(
    "stalled_inputs_alike_regression", regression, "stalled", "input_scale", None,
    dict(scale_input=Slight(0.002)),
)  # fmt: skip
