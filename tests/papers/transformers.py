"""Pre-LN and Post-LN transformers at initialisation, in the setting in which Xiong et al. prove it.

One head, queries and keys at zero (so that attention is the mean over positions), feed-forward
layers as wide as the stream, Xavier's normal weights, no biases, Gaussian inputs. The gradient is
that of one position's loss, an outer product, whose norm is the product of two norms: summed over
positions it would also grow because deep Post-LN makes them alike, which the theorem leaves out.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from tests.papers import Row, Seen
from torch import nn

WIDTH, SAMPLES, SEEDS = 128, 128, 8
DEPTHS = (8, 16, 32, 64)


class Block(nn.Module):
    """Mean over positions, then relu; the norm before each (pre) or behind each sum."""

    def __init__(self, pre: bool) -> None:
        super().__init__()
        self.values, self.first, self.second = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.pre = pre
        self.stream = self.hidden = self.added = torch.empty(0)
        for linear in (self.values, self.first, self.second):
            nn.init.xavier_normal_(linear.weight)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        return self.values(x).mean(1, keepdim=True)

    def _think(self, x: torch.Tensor) -> torch.Tensor:
        self.hidden = F.relu(self.first(x))
        self.added = self.second(self.hidden)
        return self.added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream [B, T, D]; `stream` keeps the last sum, `hidden` and `added` its branch."""
        attend, think = self.norms
        if self.pre:
            x = x + self._attend(attend(x))
            self.stream = x + self._think(think(x))
            return self.stream
        x = attend(x + self._attend(x))
        self.stream = x + self._think(x)
        return think(self.stream)


@cache
def initialised(pre: bool, depth: int, positions: int) -> tuple[float, float]:
    """Means over seeds and positions: log gradient norm of the last W2, square of the last sum."""
    logs, squares = [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        blocks = nn.Sequential(*(Block(pre) for _ in range(depth)))
        head = nn.Linear(WIDTH, 50, bias=False)
        nn.init.normal_(head.weight, std=WIDTH**-0.5)
        model = nn.Sequential(blocks, *([nn.LayerNorm(WIDTH)] if pre else []), head)
        x, y = torch.randn(SAMPLES // positions, positions, WIDTH), torch.randint(50, (SAMPLES,))
        last = blocks[-1]
        assert isinstance(last, Block)
        loss = F.cross_entropy(model(x).flatten(0, 1), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, last.added)
        logs.append(float((g.norm(dim=2) * last.hidden.detach().norm(dim=2)).log().mean()))
        squares.append(float(last.stream.detach().square().mean()))
    return float(np.mean(logs)), float(np.mean(squares))


def slope(pre: bool) -> float:
    """Of the last layer's log gradient norm against the log of the depth, for one position.

    Among more of them attention counts the more the deeper they have become alike.
    """
    logs = [initialised(pre, depth, 1)[0] for depth in DEPTHS]
    return float(np.polyfit(np.log(DEPTHS), logs, 1)[0])


def square(pre: bool, depth: int, positions: int = 16) -> float:
    """Mean square of the stream at the end."""
    return initialised(pre, depth, positions)[1]


XIONG = "Xiong et al. 2020"
EXPONENT = "3 s.e. of 8 networks (0.04), and the 1 in 1 + 3 L / 2"
ROWS = [
    Row(
        name="exponent of the last layer's gradient in the depth, Pre-LN",
        source=f"{XIONG}, theorem 1: d sqrt(ln d / L)",
        seen=Seen.CHECKED,
        theory=-0.5,
        tolerance=0.06,
        why=EXPONENT,
        measure=partial(slope, True),
        quick=False,
    ),
    Row(
        name="exponent of the last layer's gradient in the depth, Post-LN",
        source=f"{XIONG}, theorem 1: d sqrt(ln d)",
        seen=Seen.CHECKED,
        theory=0.0,
        tolerance=0.06,
        why=EXPONENT,
        measure=partial(slope, False),
        quick=False,
    ),
    Row(
        name="mean square of the last sum, Post-LN of 8 layers",
        source=f"{XIONG}, lemma 2: 3/2",
        seen=Seen.CHECKED,
        theory=1.5,
        tolerance=0.1,
        why="3 s.e. of 8 networks (spread 0.09)",
        measure=partial(square, False, 8, 1),
    ),
    Row(
        name="mean square of the stream, Pre-LN of 32 layers, one position",
        source=f"{XIONG}, lemma 2: 1 + 3 L / 2, reached where attention is the identity",
        seen=Seen.DERIVED,
        theory=49.0,
        tolerance=1.9,
        why="3 s.e. of 8 networks (spread 1.8)",
        measure=partial(square, True, 32, 1),
    ),
    *(
        Row(
            name=f"mean square of the stream, Pre-LN of 32 layers, {side} bound",
            source=f"{XIONG}, lemma 2: {words}",
            seen=Seen.CHECKED,
            theory=bound,
            why="a bound",
            measure=partial(square, True, 32),
            bound=sign,
        )
        for side, words, bound, sign in (
            ("lower", "1 + L / 2", 17.0, ">"),
            ("upper", "1 + 3 L / 2", 49.0, "<"),
        )
    ),
]
