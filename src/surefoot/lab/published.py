"""What theory says of a layer of the lab's network: by what the gradient's norm grows on its way
back through it, in wide and deep networks.

Nothing is said where nothing is known: of other activations behind batch norm, and of skip
connections around activations whose slope depends on the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from surefoot.lab.choices import Choices
from surefoot.lab.initial import deviation
from surefoot.lab.network import ACTIVATIONS
from surefoot.theory.expectation import BATCH_NORM_RELU
from surefoot.theory.gain import gain

_SCALE_FREE = ("relu", "leaky_relu", "linear")  # their slope does not depend on the signal's scale
_KEEPS = ("relu", "leaky_relu", "gelu", "silu", "linear")  # phi(z) - phi(-z) is linear in z


@dataclass(frozen=True, slots=True)
class Published:
    """growth: factor of the gradient's norm a layer, towards the input; source: who found it."""

    growth: float
    source: str


def published(choices: Choices, batch: int) -> Published | None:
    """The growth that theory expects, None where it says nothing. batch: samples in one."""
    if choices.skips == "rezero":
        return Published(1.0, "Bachlechner et al. 2021: the blocks add nothing at the start")
    if choices.normalization != "none":
        return _normalised(choices, batch)
    sigma_w = spread(choices)
    if choices.initialization == "looks_linear":
        exact = choices.skips == "none" and choices.activation in _KEEPS
        source = "Balduzzi et al. 2017: mirrored units pass everything on"
        return Published(choices.scale, source) if exact else None
    chi, q = _chi(choices.activation, sigma_w, _biases(choices))
    if choices.skips == "none":
        scale_free = choices.activation in _SCALE_FREE
        where = "" if scale_free or not 0 < q < math.inf else ", far from the input"
        return Published(math.sqrt(chi), f"Schoenholz et al. 2017: sqrt(chi_1){where}")
    if choices.activation not in _SCALE_FREE:
        return None
    share = 1 / choices.depth if choices.skips == "scaled" else 1.0
    return Published(math.sqrt(1 + share * chi), "Balduzzi et al. 2017: sqrt(1 + chi_1)")


def _normalised(choices: Choices, batch: int) -> Published | None:
    plain = choices.skips == "none"
    if plain and choices.normalization == "batch_norm" and choices.activation == "relu":
        return Published(10**BATCH_NORM_RELU, "Yang et al. 2019: sqrt(pi / (pi - 1))")
    if plain and choices.normalization == "batch_norm" and choices.activation == "linear":
        growth = math.sqrt((batch - 2) / (batch - 3))
        return Published(growth, "Yang et al. 2019: sqrt((B - 2) / (B - 3))")
    if plain and choices.normalization == "layer_norm" and choices.activation == "relu":
        return Published(1.0, "layer norm with ReLU neither grows nor shrinks it")
    return None


def spread(choices: Choices) -> float:
    """sigma_w: the hidden weights have the standard deviation sigma_w / sqrt(width)."""
    width = choices.width
    return choices.scale * deviation(choices.initialization, width, width) * math.sqrt(width)


def _biases(choices: Choices) -> float:
    """sigma_b: only PyTorch's default draws biases."""
    return math.sqrt(1 / (3 * choices.width)) if choices.initialization == "default" else 0.0


@lru_cache(maxsize=256)
def _chi(activation: str, sigma_w: float, sigma_b: float) -> tuple[float, float]:
    """(chi_1, q*) of an activation."""
    kind = ACTIVATIONS[activation]
    seen = gain(kind() if kind is not None else lambda x: x, sigma_w=sigma_w, sigma_b=sigma_b)
    return seen.chi_1, seen.q
