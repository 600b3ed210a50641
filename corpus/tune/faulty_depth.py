"""Faults of initialisation, activation and depth: vanishing, exploding, collapsed, dead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from corpus import ANY, faulty_case
from corpus.recipes import (
    adam,
    cnn,
    gaussian,
    he,
    mlp,
    named,
    sgd,
    untouched,
    xavier,
)
from corpus.recipes_sequences import char_rnn, pixels, transformer


def scaled(name: str, factor: float) -> Callable[[nn.Module], None]:
    """Multiply one layer's weights."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_submodule(name).weight.mul_(factor)  # type: ignore[operator]

    return change


def biased(name: str, value: float) -> Callable[[nn.Module], None]:
    """Set one layer's biases."""

    def change(model: nn.Module) -> None:
        nn.init.constant_(model.get_submodule(name).bias, value)  # type: ignore[arg-type]

    return change


class Square(nn.Module):
    """x^2 / 2 with its sign: no bound on the slope."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.abs()


def all_scaled(factor: float) -> Callable[[nn.Module], None]:
    """Multiply every matrix."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.mul_(factor)

    return change


for depth in (6, 8, 12):
    faulty_case(
        f"vanishing_sigmoid_{depth}",
        mlp,
        "vanishing",
        "saturating_activation",
        ANY,
        dict(act=nn.Sigmoid),
        fast=depth == 8,
        depth=depth,
        init=xavier,
        optimizer=sgd(0.05, momentum=0.9),
    )
faulty_case(
    "vanishing_sigmoid_adam_10", mlp, "vanishing", "saturating_activation", ANY,
    dict(act=nn.Sigmoid), depth=10, init=xavier, optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "vanishing_tanh_tiny", mlp, "vanishing", "weights_too_small", ANY,
    dict(init=partial(xavier, scale=0.3)), depth=10, act=nn.Tanh, init=xavier,
)  # fmt: skip
for depth, optimizer in ((20, sgd(0.02, momentum=0.9)), (28, adam(5e-4))):
    faulty_case(
        f"vanishing_relu_default_{depth}", mlp, "vanishing", "weights_too_small", ANY,
        dict(init=untouched), fast=depth == 20, depth=depth, optimizer=optimizer,
    )  # fmt: skip
faulty_case(
    "vanishing_relu_xavier_25", named, "vanishing", "weights_too_small", ANY,
    dict(init=xavier), depth=24, optimizer=sgd(0.01, momentum=0.9),
)  # fmt: skip
faulty_case(
    "vanishing_conv_std_001", cnn, "vanishing", "weights_too_small", ANY,
    dict(init=partial(gaussian, std=0.01)), depth=6,
)  # fmt: skip
faulty_case(
    "vanishing_gelu_default_16", mlp, "vanishing", "weights_too_small", ANY,
    dict(init=untouched), depth=16, act=nn.GELU, optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "vanishing_lone_layer_1e_3", mlp, "vanishing", "weights_too_small", "8",
    dict(surgery=scaled("8", 1e-3)), depth=10, steps=80,
    optimizer=sgd(0.05),
)  # fmt: skip
faulty_case(
    "vanishing_lone_conv_1e_3", cnn, "vanishing", "weights_too_small", "convs.2",
    dict(surgery=scaled("convs.2", 1e-3)), depth=5, optimizer=sgd(0.02), steps=100,
)  # fmt: skip
faulty_case(
    "vanishing_lone_named_1e_3", named, "vanishing", "weights_too_small", "layers.4",
    dict(surgery=scaled("layers.4", 1e-3)), depth=10, optimizer=sgd(0.05), steps=100,
)  # fmt: skip
faulty_case(
    "saturated_block_weights", mlp, "exploding|vanishing|saturated",
    "saturating_activation|weights_too_large",
    ("6", "7"), dict(surgery=scaled("6", 1000.0)),
    depth=6, act=nn.Tanh, init=xavier, steps=120, optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "saturated_block_bias", mlp, "vanishing|saturated", "saturating_activation", ("6", "7"),
    dict(surgery=biased("6", 12.0)), depth=6, act=nn.Tanh, init=xavier,
)  # fmt: skip
faulty_case(
    "saturated_sigmoid_bias_in_relu", mlp, "vanishing|saturated", "saturating_activation",
    ("4", "5"),
    dict(surgery=lambda m: (m.__setitem__(5, nn.Sigmoid()), biased("4", -14.0)(m))), depth=5,
)  # fmt: skip
for factor, depth, lr in ((3.0, 15, 0.02), (5.0, 12, 0.02), (3.0, 25, 0.005)):
    faulty_case(
        f"exploding_weights_x{factor:.0f}_{depth}", mlp, "exploding", "weights_too_large", ANY,
        dict(init=partial(he, scale=factor)), fast=depth == 15, depth=depth,
        optimizer=sgd(lr, momentum=0.9), steps=150,
    )  # fmt: skip
faulty_case(
    "exploding_weights_x3_adam_12", named, "exploding", "weights_too_large", ANY,
    dict(init=partial(he, scale=3.0)), depth=12, steps=120,
)  # fmt: skip
faulty_case(
    "exploding_lone_layer_x30", mlp, "exploding", "weights_too_large", "6",
    dict(surgery=scaled("6", 30.0)), fast=True, depth=8, optimizer=sgd(0.02, momentum=0.9),
    steps=150,
)  # fmt: skip
faulty_case(
    "exploding_lone_conv_x20", cnn, "exploding", "weights_too_large", "convs.2",
    dict(surgery=scaled("convs.2", 30.0)), depth=5,
)  # fmt: skip
faulty_case(
    "exploding_lone_named_x20", named, "exploding", "weights_too_large", "layers.5",
    dict(surgery=scaled("layers.5", 30.0)), depth=9, optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "exploding_std_one_mlp", mlp, "exploding", "weights_too_large", ANY,
    dict(init=partial(gaussian, std=1.0)), depth=6, optimizer=adam(1e-3), steps=150,
)  # fmt: skip
for depth in (40, 56):
    faulty_case(
        f"exploding_bn_plain_{depth}", mlp, "exploding|shattered", "normalization_without_skip",
    ANY,
        dict(depth=depth), fast=depth == 40, norm=True, width=48, steps=80,
        optimizer=sgd(0.05, momentum=0.9), depth=4,
    )  # fmt: skip
faulty_case(
    "exploding_bn_plain_cnn", cnn, "exploding|shattered", "normalization_without_skip", ANY,
    dict(depth=40), norm=True, width=6, steps=60, depth=4,
)  # fmt: skip
faulty_case(
    "exploding_transformer_std_one", transformer, "exploding", "weights_too_large", ANY,
    dict(surgery=partial(gaussian, std=1.0)), fast=True, optimizer=adam(1e-3), steps=150,
)  # fmt: skip
faulty_case(
    "exploding_rnn_relu_radius", pixels, "exploding", "recurrent_weights", ("rnn",),
    dict(radius=2.0), fast=True, optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "exploding_rnn_relu_radius_adam", pixels, "exploding", "recurrent_weights", ("rnn",),
    dict(radius=2.5),
)  # fmt: skip
faulty_case(
    "exploding_rnn_tanh_radius", pixels, "exploding", "recurrent_weights", ("rnn",),
    dict(radius=4.0), relu=False, optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "vanishing_rnn_tiny_radius", pixels, "vanishing", "recurrent_weights", ("rnn",),
    dict(radius=0.1), relu=False, steps=100,
)  # fmt: skip
faulty_case(
    "exploding_square_activation", mlp, "exploding", "unbounded_activation", ANY,
    dict(act=Square), depth=6, optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "exploding_char_rnn_weights", char_rnn, "exploding", "recurrent_weights|weights_too_large",
    ("rnn",),
    dict(surgery=lambda m: scaled_recurrent(m, 12.0)), kind=nn.RNN,
)  # fmt: skip


def scaled_recurrent(model: nn.Module, factor: float) -> None:
    """Multiply the recurrent matrix of `model.rnn`."""
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(factor)  # type: ignore[operator, union-attr]


for depth in (40, 60):
    faulty_case(
        f"collapsed_relu_{depth}", mlp, "collapsed", "depth_without_skip", ANY,
        dict(depth=depth), fast=depth == 40, width=48, steps=100,
        optimizer=sgd(0.02, momentum=0.9), depth=4,
    )  # fmt: skip
faulty_case(
    "collapsed_relu_named_50", named, "collapsed", "depth_without_skip", ANY,
    dict(depth=50), width=48, steps=80, depth=4, optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "dead_relu_bias", mlp, "dead", "dead_relu", ("2", "3"),
    dict(surgery=biased("2", -100.0)), fast=True,
)  # fmt: skip
faulty_case(
    "dead_relu_named_bias", named, "dead", "dead_relu", ("layers.1",),
    dict(surgery=biased("layers.1", -100.0)),
)  # fmt: skip
faulty_case(
    "dead_relu_conv_bias", cnn, "dead", "dead_relu", ("convs.1",),
    dict(surgery=biased("convs.1", -100.0)),
)  # fmt: skip
