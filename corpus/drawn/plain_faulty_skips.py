"""Faulty rows on vectors: depth and norms without skips, layers that are applied again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.drawn import broken
from corpus.recipes import adam, he, sgd
from corpus.trainings.plain_nets import numbered, residual, units
from corpus.trainings.plain_parts import Settled

# Depth, and norms, without skips.
PLAIN = ("collapsed", "depth_without_skip")
broken(
    "continent_seven_tanh/relu_52",
    *PLAIN,
    ANY,
    dict(model=units(52, 40)),
    model=units(5, 40),
    init=he,
    steps=80,
    optimizer=sgd(0.01, momentum=0.9),
)
broken(
    "hues_selu_20/relu_46",
    *PLAIN,
    ANY,
    dict(model=units(46, 48)),
    model=units(6, 48),
    init=he,
    steps=80,
    optimizer=adam(1e-3),
)
broken(
    "nations_life_pyramid/relu_58",
    *PLAIN,
    ANY,
    dict(model=numbered(*[32] * 58)),
    model=numbered(*[32] * 4),
    init=he,
    steps=80,
    optimizer=sgd(0.01, momentum=0.9),
)
broken(
    "continent_rezero_30/leaky_60",
    *PLAIN,
    ANY,
    dict(model=units(60, 32, partial(F.leaky_relu, negative_slope=0.05)), init=he),
    model=residual(10, 32, nn.ReLU, nn.LayerNorm, 0.3),
    steps=70,
)
BATCH = ("exploding|shattered", "normalization_without_skip")
for name, width, act, depth, optimizer in (
    ("continent_skip_batchnorm_24", 32, F.relu, 46, adam(1e-3)),
    ("wine_gated_rms_16", 40, F.leaky_relu, 50, adam(1e-3)),
    ("nations_life_pyramid", 48, F.relu, 44, adam(3e-3)),
):
    broken(
        f"{name}/plain_{depth}",
        *BATCH,
        ANY,
        dict(model=units(depth, width, act, nn.BatchNorm1d)),
        model=units(depth, width, act, nn.BatchNorm1d, skip=True),
        batch=64,
        steps=40,
        optimizer=optimizer,
    )
broken(
    "continent_batchnorm_plain_6/plain_54",
    *BATCH,
    ANY,
    dict(model=numbered(*[48] * 54, norm=nn.BatchNorm1d)),
    steps=50,
    optimizer=sgd(0.05, momentum=0.9),
)


# The same layer again and again.
def settled(gain: float, rounds: int, once: bool, act: Callable[..., Any]) -> Any:
    """The hues' network with another loop."""

    def build(task: Any) -> nn.Module:
        net = Settled(3, 48, task.out, rounds, gain, once)
        net.act = act
        return net

    return build


broken(
    "hues_settled_30/relu_gain_25",
    "exploding|nonfinite",
    "recurrent_weights",
    ("back",),
    dict(model=settled(2.5, 30, False, F.relu)),
    model=settled(0.5, 30, False, F.relu),
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "hues_remembered_12/gain_8",
    "exploding|saturated|shattered",
    "recurrent_weights",
    ("back",),
    dict(model=settled(8.0, 16, True, torch.tanh)),
)
broken(
    "hues_remembered_12/gain_01",
    "vanishing|stalled",
    "recurrent_weights",
    ("back",),
    dict(model=settled(0.1, 12, True, torch.tanh)),
    optimizer=sgd(0.02),
    steps=250,
)
