"""Batch norm: it holds the signal, and makes the gradient grow in every layer."""

from __future__ import annotations

import math

import torch
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.measures import gradient_norms, profile, wide_growth
from surefoot.lab.stack import plain

_YANG = "Yang et al. 2019"
_RELU = math.pi / (math.pi - 1)


def _measure(seed: int) -> Result:
    relu = {b: wide_growth(nn.ReLU, 1.0, norm=nn.BatchNorm1d, batch=b) for b in (32, 128, 512)}
    linear = {b: wide_growth(nn.Identity, 1.0, norm=nn.BatchNorm1d, batch=b) for b in (8, 32)}
    scaled = wide_growth(nn.ReLU, 10.0, norm=nn.BatchNorm1d, batch=512, networks=2)
    layered = wide_growth(nn.ReLU, 1.0, norm=nn.LayerNorm)
    model = plain(nn.ReLU, 30, 512, 2**0.5, norm=nn.BatchNorm1d)
    line = profile("batch norm with ReLU", gradient_norms(model, torch.randn(128, 512)))
    theory = [_RELU ** ((30 - k) / 2) for k in line.x]
    return Result(
        Standing.BORNE_OUT,
        f"Batches of 512 come to {relu[512]:.4g}, where pi / (pi - 1) is {_RELU:.4g}; smaller ones "
        f"have more ({relu[32]:.4g} at 32). Ten times larger weights change nothing "
        f"({scaled:.4g}), for batch norm divides by them. Over fifty layers the gradient's "
        f"norm grows {relu[128] ** 25:.2g} times. Layer norm does not do it ({layered:.3g}).",
        (
            Row("growth of ReLU, batches of 512", f"{_YANG}: pi / (pi - 1)", _RELU, relu[512],
                0.03 * _RELU),
            Row("growth of ReLU, batches of 128", f"{_YANG}: pi / (pi - 1)", _RELU, relu[128],
                0.03 * _RELU),
            Row("growth of ReLU, ten times larger weights", f"{_YANG}: the same", _RELU, scaled,
                0.03 * _RELU),
            Row("growth of ReLU, batches of 32 over those of 512",
                f"{_YANG}: more, as (B - 2) / (B - 3): above 1", 1.0, relu[32] / relu[512],
                bound=">"),
            *(Row(f"growth of a linear network, batches of {b}", f"{_YANG}: (B - 2) / (B - 3)",
                  (b - 2) / (b - 3), x, 0.03 * (b - 2) / (b - 3))
              for b, x in linear.items()),
            Row("growth of ReLU with layer norm", "(w^2 / 2) / (w^2 / 2)", 1.0, layered, 0.03),
        ),
        drawn(
            [line, Line("theory, pi / (pi - 1)", line.x, theory, expected=True)],
            "layer, from the input", "gradient, relative to the last layer", log_y=True,
        ),
    )  # fmt: skip


ENTRY = Entry(
    "batch_norm_growth",
    "Without skips each layer of batch norm and ReLU multiplies the squared gradient by "
    "pi / (pi - 1), whatever the weights are.",
    "Yang et al. 2019, A mean field theory of batch normalization",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
