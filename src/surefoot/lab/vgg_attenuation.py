"""VGG with weights of 0.01: by what ten convolutions shrink a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn

_WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512, 512, 512)  # of VGG-B, conv2 to conv10
_STD, _HE = 0.01, "He et al. 2015, section 2.2"


def _measure(seed: int) -> Result:
    small = _attenuations(lambda outputs: _STD)
    sound = _attenuations(lambda outputs: (2 / (9 * outputs)) ** 0.5)
    formula = math.prod(1 / (_STD * math.sqrt(9 * d / 2)) for d in _WIDTHS[1:])
    layers = range(len(_WIDTHS))
    return Result(
        Standing.BORNE_OUT,
        f"Weights of {_STD:g} shrink a gradient {small[-1]:.3g} times from conv10 to conv2 of "
        f"VGG-B; He's own weights leave it as it is (a factor of {sound[-1]:.2f}).",
        (
            Row("attenuation from conv10 to conv2, weights of 0.01", f"{_HE}: 1.7e4", 1.7e4,
                small[-1], 600),
            Row("attenuation from conv10 to conv2, weights of 0.01",
                f"{_HE}: prod 1 / (std sqrt(k^2 d / 2))", formula, small[-1], 0.04 * formula),
            Row("attenuation, He's weights", f"{_HE}: 1", 1.0, sound[-1], 0.05),
        ),
        drawn(
            [Line("weights of 0.01", layers, [1 / x for x in small], BAD),
             Line("He's weights", layers, [1 / x for x in sound], GOOD)],
            "convolutions passed, from conv10", "gradient left", log_y=True,
        ),
    )  # fmt: skip


def _attenuations(std: Callable[[int], float]) -> list[float]:
    """Product of the factors by which the layers shrink the gradient's spread, from the last one
    on: a gate by coin, then the transposed convolution, away from the padding."""
    shape, found, whole = (2, 24, 24), [1.0], 1.0
    for inputs, outputs in reversed(list(pairwise(_WIDTHS))):
        weight = std(outputs) * torch.randn(outputs, inputs, 3, 3)
        before = torch.randn(shape[0], outputs, *shape[1:])
        gated = before * (torch.rand_like(before) < 0.5)
        after = nn.functional.conv_transpose2d(gated, weight, padding=1)[:, :, 2:-2, 2:-2]
        whole *= float(before.std() / after.std())
        found.append(whole)
    return found


ENTRY = Entry(
    "vgg_attenuation",
    "Weights of 0.01 shrink the gradient 1.7e4 times in a network of ten convolutions.",
    _HE,
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
