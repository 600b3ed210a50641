"""Shattered gradients without an explosion: what is left when the gradient's size is repaired."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from corpus import ANY, faulty_case
from corpus.data import batches, digits, share
from corpus.recipes import he, sgd, train

GROWTH = (torch.pi / (torch.pi - 1)) ** 0.5  # of a gradient through batch norm and ReLU


class Rescale(torch.autograd.Function):
    """The identity, whose backward divides by what a block of batch norm and ReLU multiplies by."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / GROWTH


class Block(nn.Module):
    """Linear, batch norm, ReLU; around a skip connection or plain with its gradient rescaled."""

    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.linear, self.norm, self.skip = nn.Linear(width, width), nn.BatchNorm1d(width), skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.linear(x if self.skip else Rescale.apply(x))))
        return x + y if self.skip else y


def blocks(seed: int, *, depth: int, lr: float, steps: int, skip: bool = True) -> float:
    """A stack of blocks on digits."""
    torch.manual_seed(seed)
    x, y = digits()
    stack = (Block(64, skip) for _ in range(depth))
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), *stack, nn.Linear(64, 10))
    he(model)
    optimizer = sgd(lr, momentum=0.9)(model.parameters())
    train(model, optimizer, batches(x, y, 64, steps, seed))
    return share(model, x, y)


for depth in (32, 40):
    faulty_case(
        f"shattered_bn_rescaled_{depth}",
        blocks,
        "shattered",
        "normalization_without_skip",
        (ANY,),
        {"skip": False},
        depth=depth,
        lr=0.01,
        steps=120,
        fast=depth == 32,
    )
