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
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.trials import losses, paired, trained, typical, watched

_DEPTHS, _STEPS, _BATCH, _LENGTH, _SEEDS = (6, 16, 48), 140, 32, 16, 3
_SYMBOLS, _CHANNELS = 6, 24
_SOURCE = "Bai, Kolter & Koltun 2018; He et al. 2016 (an analogue on a task of our own)"


class Convolved(nn.Module):
    """relu(conv(x)) over time, or with a skip x + conv(relu(norm(x)))."""

    def __init__(self, dilation: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.norm = nn.GroupNorm(1, _CHANNELS) if skip else nn.Identity()
        self.conv = nn.Conv1d(
            _CHANNELS, _CHANNELS, 3, padding=dilation, dilation=dilation, bias=False
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
        self.lift = nn.Conv1d(_SYMBOLS, _CHANNELS, 1)
        self.layers = nn.Sequential(*(Convolved(2 ** (k % 3), skip) for k in range(depth)))
        self.last = nn.GroupNorm(1, _CHANNELS) if skip else nn.Identity()
        self.head = nn.Linear(_CHANNELS, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, symbols, time] -> scores [batch, classes], from the last time step."""
        return self.head(self.last(self.layers(self.lift(x)))[:, :, -1])


def _measure(seed: int) -> Result:
    courses = {
        skip: {depth: _train(depth, skip, seed) for depth in _DEPTHS} for skip in (False, True)
    }
    plain, residual = ([typical(c) for c in courses[s].values()] for s in (False, True))
    deepest = _DEPTHS[-1]
    pairs = [[courses[skip][deepest]] for skip in (False, True)]
    for k in range(1, _SEEDS):
        for skip in (False, True):
            pairs[skip].append(_train(deepest, skip, 100 * k + seed))
    seen = watched(partial(_parts, deepest, False, seed), 40)
    trivial, last = math.log(4), typical(losses(seen))
    return Result(
        Standing.BORNE_OUT,
        f"On the order of two symbols in sequences of {_LENGTH}, {_DEPTHS[0]} plain layers come to "
        f"a loss of {plain[0]:.2g} and {_DEPTHS[-1]} stay at {plain[-1]:.3g}, where a constant "
        f"answer has {trivial:.3g}; with skips {_DEPTHS[-1]} layers come to {residual[-1]:.2g}.",
        (
            Row(f"loss of {_DEPTHS[0]} plain layers", "shallow ones learn: below half of ln 4",
                trivial / 2, plain[0], bound="<"),
            Row(f"loss of {_DEPTHS[-1]} plain layers", f"{_SOURCE}: above half of ln 4",
                trivial / 2, plain[-1], bound=">"),
            *(Row(f"loss of {d} residual layers", f"{_SOURCE}: below half of ln 4", trivial / 2, x,
                  bound="<")
              for d, x in zip(_DEPTHS, residual, strict=True)),
        ),
        drawn(
            [Line("plain", _DEPTHS, plain, BAD), Line("residual", _DEPTHS, residual, GOOD)],
            "layers", "loss", log_y=True, reference=trivial,
        ),
        f"{_DEPTHS[-1]} plain convolutions over time are at a loss of {last:.3g} after 40 steps; a "
        f"constant answer has {trivial:.3g}.",
        seen,
        f"A skip past each convolution, with normalisation before it: {paired(*pairs)}.",
    )  # fmt: skip


def _sequences(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Symbols [count, 6, 16], and which of two of them came early and late, as four classes."""
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(2, _SYMBOLS, (count, _LENGTH), generator=generator)
    first, second = torch.randint(0, 2, (2, count), generator=generator)
    row = torch.arange(count)
    symbols[row, torch.randint(1, 4, (count,), generator=generator)] = first
    symbols[row, torch.randint(8, 11, (count,), generator=generator)] = second
    return F.one_hot(symbols, _SYMBOLS).float().transpose(1, 2), 2 * first + second


def _parts(depth: int, skip: bool, seed: int) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    model = Sequence(depth, skip)
    data = torch.utils.data.TensorDataset(*_sequences(_BATCH * 60, seed))
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
