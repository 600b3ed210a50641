"""Layer norm before each branch or behind each sum: the gradient near a transformer's output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.temporal_order import CLASSES, SYMBOLS, sequences
from surefoot.lab.trials import typical

_XIONG = "Xiong et al. 2020"
_WIDTH, _SAMPLES, _WORDS, _SEEDS = 128, 128, 50, 6
_DEPTHS, _DEEPEST, _POSITIONS = (4, 8, 16, 32, 64), 64, 16
_OWN, _OWN_WIDTH, _LENGTH = 12, 32, 10  # PyTorch's own layers, which are trained
_RATE, _BATCH, _STEPS, _WARM, _TRAINED = 3e-3, 32, 150, 100, 2


class Block(nn.Module):
    """As in the proof: mean over positions, then relu; no biases, Xavier's normal weights, and the
    norm before each of the two or behind each sum.

    Keeps of its last call: fed, made: what went into the second matrix and what came out of it;
    stream: the last sum.
    """

    def __init__(self, pre: bool) -> None:
        super().__init__()
        self.pre = pre
        self.values, self.first, self.second = (
            nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(3)
        )
        self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.fed = self.made = self.stream = torch.empty(0)
        for linear in (self.values, self.first, self.second):
            nn.init.xavier_normal_(linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, positions, width] -> the same."""
        if self.pre:
            x = x + self._attend(self.norm1(x))
            self.stream = x + self._think(self.norm2(x))
            return self.stream
        x = self.norm1(x + self._attend(x))
        self.stream = x + self._think(x)
        return self.norm2(self.stream)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        return self.values(x).mean(1, keepdim=True)

    def _think(self, x: torch.Tensor) -> torch.Tensor:
        self.fed = F.relu(self.first(x))
        self.made = self.second(self.fed)
        return self.made


@dataclass(frozen=True, slots=True)
class _Seen:
    """gradients: norm of that of each layer's second matrix, from one position's loss, mean over
    positions and networks; square: mean square of the last sum."""

    gradients: list[float]
    square: float


def _measure(seed: int) -> Result:
    seen = {pre: {d: _start(pre, d, 1) for d in _DEPTHS} for pre in (True, False)}
    many = {pre: _start(pre, _DEEPEST, _POSITIONS) for pre in (True, False)}
    own = {pre: _own(pre) for pre in (True, False)}
    before, behind = (seen[pre][_DEEPEST].gradients for pre in (True, False))
    ends = {
        name: [_train(pre, warm, 100 * k + seed) for k in range(_TRAINED)]
        for name, pre, warm in (("before", True, 1), ("behind", False, 1), ("warm", False, _WARM))
    }
    return Result(
        Standing.BORNE_OUT,
        f"With the norm behind each sum the last layer's gradient is {behind[-1]:.3g} at "
        f"{_DEEPEST} layers and {seen[False][_DEPTHS[0]].gradients[-1]:.3g} at {_DEPTHS[0]}; with "
        f"the norm before each branch it is {before[-1]:.3g} and "
        f"{seen[True][_DEPTHS[0]].gradients[-1]:.3g}, because the stream has grown by then and the "
        f"last norm divides by it. That is so near the output only: the first layer's is "
        f"{before[0]:.3g}. And it shows in training: with Adam at a rate of {_RATE:g} {_OWN} of "
        f"PyTorch's own layers are after {_STEPS} steps at losses of {_told(ends['behind'])} with "
        f"the norm behind, of {_told(ends['warm'])} with {_WARM} steps of warm-up, and of "
        f"{_told(ends['before'])} with the norm before and no warm-up.",
        (*_starts(seen, many), *_ends(own, ends)),
        drawn(_lines(seen), "layers", "gradient of the last layer", log_x=True, log_y=True),
    )  # fmt: skip


def _told(losses: list[float]) -> str:
    return " and ".join(f"{loss:.2g}" for loss in losses)


def _start(pre: bool, depth: int, positions: int) -> _Seen:
    """Some networks at initialisation, with inputs N(0, 1)."""
    gradients, square = np.zeros(depth), 0.0
    for _ in range(_SEEDS):
        blocks = [Block(pre) for _ in range(depth)]
        head = nn.Linear(_WIDTH, _WORDS, bias=False)
        nn.init.normal_(head.weight, std=_WIDTH**-0.5)
        model = nn.Sequential(*blocks, nn.LayerNorm(_WIDTH) if pre else nn.Identity(), head)
        x = torch.randn(_SAMPLES // positions, positions, _WIDTH)
        words = torch.randint(_WORDS, (_SAMPLES,))
        loss = F.cross_entropy(model(x).flatten(0, 1), words, reduction="sum")
        found = torch.autograd.grad(loss, [block.made for block in blocks])
        # For one position an outer product, whose norm is the product of two norms.
        gradients += [
            float((g.norm(dim=2) * block.fed.detach().norm(dim=2)).mean()) / _SEEDS
            for g, block in zip(found, blocks, strict=True)
        ]
        square += float(blocks[-1].stream.detach().square().mean()) / _SEEDS
    return _Seen(gradients.tolist(), square)


class Encoder(nn.Module):
    """Symbols and places, PyTorch's own layers, and a head on the last position."""

    def __init__(self, pre: bool) -> None:
        super().__init__()
        width = _OWN_WIDTH
        self.lift = nn.Linear(SYMBOLS, width)
        self.places = nn.Parameter(0.5 * torch.randn(_LENGTH, width))
        made = partial(nn.TransformerEncoderLayer, width, 2, 2 * width, 0.0, batch_first=True)
        self.layers = nn.Sequential(*(made(norm_first=pre) for _ in range(_OWN)))
        self.norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, symbols] -> scores [batch, classes]."""
        return self.head(self.norm(self.layers(self.lift(x) + self.places))[:, -1])


def _own(pre: bool) -> float:
    """Norm of the gradient of the last layer's second matrix, mean of some networks."""
    whole = 0.0
    for k in range(_SEEDS):
        model = Encoder(pre)
        x, y = sequences(64, torch.Generator().manual_seed(k), _LENGTH)
        last = model.layers.get_submodule(f"{_OWN - 1}.linear2").get_parameter("weight")
        (g,) = torch.autograd.grad(F.cross_entropy(model(x), y), last)
        whole += float(g.norm()) / _SEEDS
    return whole


def _train(pre: bool, warm: int, seed: int) -> float:
    """The last losses of Adam, whose rate rises over the first `warm` steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Encoder(pre)
    adam = torch.optim.Adam(model.parameters(), lr=_RATE, betas=(0.9, 0.98))
    rises = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, (step + 1) / warm))
    losses = []
    for _ in range(_STEPS):
        x, y = sequences(_BATCH, generator, _LENGTH)
        adam.zero_grad()
        loss = F.cross_entropy(model(x), y)
        losses.append(float(loss.detach()))
        loss.backward()
        adam.step()
        rises.step()
    return typical(losses)


def _theory(square: float) -> float:
    """The gradient of the second matrix, for one position, where the stream's mean square is this.

    ||softmax - one-hot||^2 is 1 + (e - 2) / 50 in the mean, a norm divides by the root of the
    square, and relu leaves half of the width to the other factor of the outer product.
    """
    return math.sqrt((1 + (math.e - 2) / _WORDS) * _WIDTH / 2 / square)


def _sum(depth: int) -> float:
    """The mean square of the stream after so many layers with the norm before: each adds 1 + 1/2.

    Going back the squared gradient grows by the same factors, so that the gradient of a layer
    depends on its own place and not on the number of layers behind it.
    """
    return 1 + 1.5 * depth


def _starts(seen: dict[bool, dict[int, _Seen]], many: dict[bool, _Seen]) -> tuple[Row, ...]:
    gap = {pre: _exponent(found) for pre, found in seen.items()}
    ratio = many[False].gradients[-1] / many[True].gradients[-1]
    first, deepest = seen[True][_DEEPEST].gradients[0], seen[True][_DEEPEST].square
    return (
        Row("exponent of the last layer's gradient in the depth, norm behind",
            f"{_XIONG}, theorem 1: d sqrt(ln d)", 0.0, gap[False], 0.06),
        Row("the same, norm before", f"{_XIONG}, theorem 1: d sqrt(ln d / L)", -0.5, gap[True],
            0.06),
        Row("mean square of the last sum, norm behind", f"{_XIONG}, lemma 2: 3/2", 1.5,
            seen[False][_DEEPEST].square, 0.15),
        Row(f"the same, norm before, {_DEEPEST} layers", f"{_XIONG}, lemma 2: 1 + 3 L / 2",
            _sum(_DEEPEST), deepest, 0.05 * _sum(_DEEPEST)),
        *(Row(f"gradient of the last of {d} layers, norm behind",
              "sqrt(d / 2) / sqrt(3/2), of cross-entropy", _theory(1.5), x.gradients[-1],
              0.08 * _theory(1.5))
          for d, x in seen[False].items()),
        *(Row(f"gradient of the last of {d} layers, norm before",
              "sqrt(d / 2) / sqrt(1 + 3 L / 2), of cross-entropy", _theory(_sum(d)),
              x.gradients[-1], 0.08 * _theory(_sum(d)))
          for d, x in seen[True].items()),
        Row(f"gradient of the first of {_DEEPEST} layers, norm before",
            "sqrt(d / 2) / sqrt(1 + 3 / 2), of cross-entropy", _theory(_sum(1)), first,
            0.08 * _theory(_sum(1))),
        Row(f"last gradient behind over before, {_POSITIONS} positions, {_DEEPEST} layers",
            f"{_XIONG}, lemma 2: above sqrt((1 + L / 2) / (3/2))",
            math.sqrt((1 + _DEEPEST / 2) / 1.5), ratio, bound=">"),
    )  # fmt: skip


def _exponent(found: dict[int, _Seen]) -> float:
    """Slope of the log of the last layer's gradient over that of the depth, from 8 layers on."""
    deep = [d for d in found if d >= 8]
    logs = [math.log(found[d].gradients[-1]) for d in deep]
    return float(np.polyfit(np.log(deep), logs, 1)[0])


def _ends(own: dict[bool, float], ends: dict[str, list[float]]) -> tuple[Row, ...]:
    half = math.log(CLASSES) / 2
    learn = {name: sum(loss < half for loss in found) for name, found in ends.items()}
    words = f"{_XIONG} (an analogue: they translated)"
    return (
        Row(f"last gradient behind over before, {_OWN} layers of PyTorch's own",
            f"{_XIONG}: larger, so above 1", 1.0, own[False] / own[True], bound=">"),
        Row(f"trainings of {_TRAINED} that learn, norm behind", f"{words}: none without warm-up",
            0, learn["behind"]),
        Row(f"trainings of {_TRAINED} that learn, norm behind, warm-up", f"{words}: all", _TRAINED,
            learn["warm"]),
        Row(f"trainings of {_TRAINED} that learn, norm before",
            f"{words}: all without warm-up", _TRAINED, learn["before"]),
    )  # fmt: skip


def _lines(seen: dict[bool, dict[int, _Seen]]) -> list[Line]:
    lines = []
    for pre, name, colour in ((False, "norm behind", BAD), (True, "norm before", GOOD)):
        last = [seen[pre][d].gradients[-1] for d in _DEPTHS]
        theory = [_theory(_sum(d) if pre else 1.5) for d in _DEPTHS]
        lines += [
            Line(name, _DEPTHS, last, colour),
            Line("theory", _DEPTHS, theory, expected=True),
        ]
    return lines


ENTRY = Entry(
    "layer_norm_place",
    "At the start the gradient near a transformer's output is large with layer norm behind each "
    "sum, and falls as 1 / sqrt(L) with layer norm before each branch, which needs no warm-up.",
    f"{_XIONG}, On layer normalization in the transformer architecture",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
