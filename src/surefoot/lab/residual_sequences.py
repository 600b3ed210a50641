"""Residual networks on sequences: dilated convolutions that have to remember a symbol."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.temporal_order import CLASSES, SYMBOLS, sequences
from surefoot.lab.trials import paired, trained, typical, watched

_DEPTHS, _STEPS, _BATCH, _LENGTH, _SEEDS = (6, 64), 100, 32, 16, 3
_CHANNELS = 24
_SOURCE = "Bai, Kolter & Koltun 2018; He et al. 2016 (an analogue on a task of our own)"


class Convolved(nn.Module):
    """relu(conv(x)) over time, or with a skip x + conv(relu(norm(x))).

    Padded in a circle: with zeros beside it the ends of a sequence would feed a layer less than
    He's weights are made for, and the weights of a deep network would be too small.
    """

    def __init__(self, dilation: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.norm = nn.GroupNorm(1, _CHANNELS) if skip else nn.Identity()
        self.conv = nn.Conv1d(
            _CHANNELS,
            _CHANNELS,
            3,
            padding=dilation,
            dilation=dilation,
            bias=False,
            padding_mode="circular",
        )
        self.relu = nn.ReLU()
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, time] -> the same."""
        return x + self.conv(self.relu(self.norm(x))) if self.skip else self.relu(self.conv(x))


class Sequence(nn.Module):
    """A lift to 24 channels, `depth` convolutions dilated by 1, 2 and 4 in turn, and a head."""

    def __init__(self, depth: int, skip: bool) -> None:
        super().__init__()
        self.lift = nn.Conv1d(SYMBOLS, _CHANNELS, 1)
        self.layers = nn.Sequential(*(Convolved(2 ** (k % 3), skip) for k in range(depth)))
        self.last = nn.GroupNorm(1, _CHANNELS) if skip else nn.Identity()
        self.head = nn.Linear(_CHANNELS, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, symbols, time] -> scores [batch, classes], from the last time step."""
        return self.head(self.last(self.layers(self.lift(x)))[:, :, -1])


def _measure(seed: int) -> Result:
    shallow, deepest = _DEPTHS
    seeds = [100 * k + seed for k in range(_SEEDS)]
    seen = watched(partial(_parts, deepest, False, seed), _STEPS)
    deep = [losses(seen), *(_train(deepest, False, s) for s in seeds[1:])]
    skips = [_train(deepest, True, s) for s in seeds]
    plain = [typical(_train(shallow, False, seed)), typical(deep[0])]
    residual = [typical(_train(shallow, True, seed)), typical(skips[0])]
    trivial = math.log(CLASSES)
    return Result(
        Standing.BORNE_OUT,
        f"On the order of two symbols in sequences of {_LENGTH}, {shallow} plain layers come to a "
        f"loss of {plain[0]:.2g} and {deepest} stay at {plain[1]:.3g}, where a constant answer has "
        f"{trivial:.3g}; with skips {deepest} layers come to {residual[1]:.2g}.",
        (
            Row(f"loss of {shallow} plain layers", "shallow ones learn: below half of ln 4",
                trivial / 2, plain[0], bound="<"),
            *(Row(f"loss of {deepest} plain layers, seed {s}", f"{_SOURCE}: above half of ln 4",
                  trivial / 2, typical(course), bound=">")
              for s, course in zip(seeds, deep, strict=True)),
            *(Row(f"loss of {d} residual layers", f"{_SOURCE}: below half of ln 4", trivial / 2, x,
                  bound="<")
              for d, x in zip(_DEPTHS, residual, strict=True)),
        ),
        drawn(
            [Line("plain", _DEPTHS, plain, BAD), Line("residual", _DEPTHS, residual, GOOD)],
            "layers", "loss", log_y=True, reference=trivial,
        ),
        f"{deepest} plain convolutions over time are at a loss of {plain[1]:.3g} after {_STEPS} "
        f"steps; a constant answer has {trivial:.3g}.",
        seen,
        f"A skip past each convolution, with normalisation before it: {paired(deep, skips)}.",
    )  # fmt: skip


def _parts(depth: int, skip: bool, seed: int) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    model = Sequence(depth, skip)
    generator = torch.Generator().manual_seed(seed)
    x, y = sequences(_BATCH * 60, generator, _LENGTH, early=(1, 4), late=(8, 11))
    data = torch.utils.data.TensorDataset(x.transpose(1, 2), y)
    batches = torch.utils.data.DataLoader(data, batch_size=_BATCH)
    return model, batches, F.cross_entropy, torch.optim.Adam(model.parameters(), lr=1e-3)


def _train(depth: int, skip: bool, seed: int) -> list[float]:
    return trained(*_parts(depth, skip, seed), steps=_STEPS)


ENTRY = Entry(
    "residual_sequences",
    "Residual networks stay trainable at depth on sequences too.",
    _SOURCE,
    _measure,
    (Cause.DEPTH_WITHOUT_SKIP,),
)

if __name__ == "__main__":
    program.main(ENTRY)
