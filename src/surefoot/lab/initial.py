"""The initial weights: each way to draw them, from a generator of its own."""

from __future__ import annotations

import math

import torch
from torch import nn

from surefoot.lab.choices import Choices

STD = 0.01  # of "gaussian"


def draw_weights(choices: Choices, linears: list[nn.Linear], head: nn.Linear) -> None:
    """Fill the hidden layers as chosen, and the head as LeCun would, mirrored or not.

    linears: in the order of the depth.
    """
    generator = torch.Generator().manual_seed(choices.seed)
    turns = _Turns(generator)
    with torch.no_grad():
        for place, linear in enumerate(linears):
            weight, fan_in = linear.weight, linear.in_features
            if choices.initialization == "orthogonal":
                weight.copy_(turns.orthogonal(*weight.shape))
            elif choices.initialization == "looks_linear":
                weight.copy_(_mirrored(turns, weight, place > 0, choices.activation))
            elif choices.initialization == "default":
                weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            else:
                std = deviation(choices.initialization, fan_in, linear.out_features)
                weight.normal_(0, std, generator=generator)
            weight.mul_(choices.scale)
            linear.bias.zero_()
            if choices.initialization == "default":
                linear.bias.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        head.bias.zero_()
        fed = head.in_features
        if choices.initialization == "looks_linear":
            half = torch.empty(head.out_features, fed // 2)
            half.normal_(0, (fed // 2) ** -0.5, generator=generator)
            head.weight.copy_(torch.cat([half, -half], 1) / _slopes(choices.activation))
        else:
            head.weight.normal_(0, fed**-0.5, generator=generator)


def deviation(initialization: str, fan_in: int, fan_out: int) -> float:
    """Standard deviation of the weights, before they are scaled; orthogonal ones count as such.

    >>> deviation("kaiming_normal", 50, 50), deviation("xavier_normal", 50, 50)
    (0.2, 0.1414213562373095)
    """
    if initialization == "kaiming_normal":
        return math.sqrt(2 / fan_in)
    if initialization == "xavier_normal":
        return math.sqrt(2 / (fan_in + fan_out))
    if initialization == "default":
        return math.sqrt(1 / (3 * fan_in))
    if initialization == "gaussian":
        return STD
    if initialization == "looks_linear":  # of a ReLU net: half of the rows mirror the others
        return math.sqrt(2 / fan_in)
    return math.sqrt(1 / fan_in)


class _Turns:
    """Orthogonal matrices, each drawn from one of its size by shuffling and flipping.

    A decomposition for each of 64 layers of 256 units would take half of the lab's second.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._known: dict[int, torch.Tensor] = {}

    def orthogonal(self, rows: int, columns: int) -> torch.Tensor:
        """Q [rows, columns] with orthonormal rows or columns, whichever are fewer."""
        size = max(rows, columns)
        if size not in self._known:
            normal = torch.randn(size, size, generator=self._generator, dtype=torch.float64)
            q, r = torch.linalg.qr(normal)
            self._known[size] = q * r.diagonal().sign()
        q = self._known[size]
        order = torch.randperm(size, generator=self._generator)
        other = torch.randperm(size, generator=self._generator)
        signs = 2 * torch.randint(2, (size, 1), generator=self._generator) - 1
        return (signs * q[order][:, other])[:rows, :columns]


def _mirrored(turns: _Turns, weight: torch.Tensor, fed: bool, activation: str) -> torch.Tensor:
    """[Q; -Q], or [[Q, -Q], [-Q, Q]] where a layer of mirrored units feeds this one.

    Divided by phi'(+0) + phi'(-0), so that Q phi(z) - Q phi(-z) is about Q z: exactly so for ReLU
    and its kin, GELU, SiLU and no activation.
    """
    rows, columns = weight.shape[0] // 2, weight.shape[1] // (1 + fed)
    q = turns.orthogonal(rows, columns)
    if fed:
        q = torch.cat([q, -q], 1) / _slopes(activation)
    return torch.cat([q, -q])


def _slopes(activation: str) -> float:
    """phi'(+0) + phi'(-0)."""
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    known = {"leaky_relu": 1.01, "linear": 2.0, "tanh": 2.0, "sigmoid": 0.5}
    return scale * (1 + alpha) if activation == "selu" else known.get(activation, 1.0)
