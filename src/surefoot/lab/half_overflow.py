"""Half precision: an exponential overflows, where nothing is wrong with the network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.stack import linear
from surefoot.lab.task import CLASSES, FEATURES, draw
from surefoot.lab.trials import tried, typical, watched

_WIDTH, _SCALE, _STEPS = 64, 6.0, 60
_LIMIT = math.log(65504)  # beyond which exp overflows in float16


class Softmax(nn.Module):
    """exp(x) / sum(exp(x)), as the formula has it: without taking the largest away first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, units] -> the same."""
        powers = x.exp()
        return powers / powers.sum(1, keepdim=True)


def _measure(seed: int) -> Result:
    half = watched(lambda: _parts(seed, torch.float16), _STEPS)
    proof = tried(lambda: _parts(seed, torch.float16), steps=_STEPS)
    full = losses(watched(lambda: _parts(seed, torch.float32), _STEPS))
    ill = losses(half)
    large = _largest(seed)
    lost = next((k for k, x in enumerate(ill) if not math.isfinite(x)), len(ill))
    found = half.report.root
    named = found.layer if found is not None else None
    return Result(
        Standing.BORNE_OUT,
        f"The largest value before the softmax is {large:.3g}, and its exponential "
        f"{math.exp(large):.2g}; float16 ends at 65504, which is exp({_LIMIT:.3g}). The same "
        f"network in float32 goes from a loss of {full[0]:.2g} to {typical(full):.2g}. It is the "
        "number format and not the network.",
        (
            Row("largest number of float16", "IEEE 754: (2 - 2^-10) 2^15", (2 - 2**-10) * 2**15,
                float(torch.finfo(torch.float16).max)),
            Row("largest value before the softmax", "its exp overflows above ln 65504", _LIMIT,
                large, bound=">"),
            Row("steps before float16 is lost", "overflows at once: fewer than 5", 5.0, lost,
                bound="<"),
            Row("layer that surefoot names is the softmax, 1 for yes", "where it was planted", 1.0,
                float(named == "softmax")),
            Row("loss in float32", "learns: below half of ln 4", math.log(CLASSES) / 2,
                typical(full), bound="<"),
        ),
        drawn(
            [Line("float16", range(len(ill)), ill, BAD),
             Line("float32", range(len(full)), full, GOOD)],
            "step", "loss", log_y=True, reference=math.log(CLASSES),
        ),
        f"In float16 the loss is no finite number from step {lost} on.",
        half,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("linear1", linear(FEATURES, _WIDTH, _SCALE))
    model.add_module("softmax", Softmax())
    model.add_module("linear2", linear(_WIDTH, _WIDTH, 8.0))
    model.add_module("activation", nn.ReLU())
    model.add_module("head", linear(_WIDTH, CLASSES, 1.0))
    return model


def _parts(seed: int, dtype: torch.dtype) -> tuple[Any, ...]:
    model = _model(seed).to(dtype)
    x, y = draw(seed)
    data = torch.utils.data.TensorDataset(x.to(dtype), y)
    batches = torch.utils.data.DataLoader(data, batch_size=64)
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, batches, nn.functional.cross_entropy, descent


def _largest(seed: int) -> float:
    with torch.no_grad():
        return float(_model(seed)[0](draw(seed)[0]).max())


ENTRY = Entry(
    "half_overflow",
    "In half precision values overflow that are harmless in single precision.",
    "IEEE 754; Micikevicius et al. 2018, Mixed precision training",
    _measure,
    (Cause.DTYPE_OVERFLOW,),
)

if __name__ == "__main__":
    program.main(ENTRY)
