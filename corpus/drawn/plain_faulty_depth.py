"""Faulty rows on vectors: initialisation and activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.drawn import broken
from corpus.recipes import Surgery, adam, he, sgd, xavier
from corpus.trainings.plain_nets import numbered, sequential, units
from corpus.trainings.surgery import all_times, both, shifted, times


def drawn(draw: Callable[..., Any], *names: str, **options: Any) -> Surgery:
    """Draw the weights of the named layers (or of all) as `draw` does; their biases are zero."""

    def change(model: nn.Module) -> None:
        for name, m in model.named_modules():
            if isinstance(m, nn.Linear) and (not names or name in names):
                draw(m.weight, **options)
                nn.init.zeros_(m.bias)

    return change


def part(i: int) -> tuple[str, ...]:
    """Any name under which part i of a trunk may be called the origin."""
    return f"body.{i}", f"body.{i}.lin"


# Weights too large.
LARGE = ("exploding|nonfinite", "weights_too_large")
broken("continent_eight_he/rand", *LARGE, ANY, dict(init=drawn(nn.init.uniform_)))
broken("hues_selu_20/randn", *LARGE, ANY, dict(init=drawn(nn.init.normal_)))
broken(
    "continent_seven_tanh/randn",
    "exploding|saturated|vanishing|shattered",
    "weights_too_large",
    ANY,
    dict(init=drawn(nn.init.normal_, std=1.5)),
)
broken(
    "continent_rezero_30/branches_x8",
    *LARGE,
    ANY,
    dict(init=all_times(8.0)),
    optimizer=sgd(0.01, momentum=0.9),
)
broken(
    "nations_life_pyramid/lone_x80",
    *LARGE,
    ("fc3",),
    dict(surgery=times("fc3", 80.0)),
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "vae_tumours/lone_x80",
    "exploding|nonfinite|saturated",
    "weights_too_large",
    ("encoder.2", "encoder"),
    dict(surgery=times("encoder.2", 80.0)),
    steps=120,
)
broken(
    "names_tokens_side_by_side/vectors_x80",
    "exploding|saturated|oscillating",
    "weights_too_large",
    ("embed",),
    dict(surgery=times("embed", 80.0)),
    optimizer=sgd(0.1),
)

# Weights too small.
SMALL = ("vanishing|stalled", "weights_too_small")
broken(
    "continent_seven_tanh/std_002",
    *SMALL,
    ANY,
    dict(init=drawn(nn.init.normal_, std=0.02)),
    init=xavier,
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "epochs_continent_deep_tanh/gain_003",
    *SMALL,
    ANY,
    dict(surgery=partial(xavier, scale=0.03)),
    optimizer=sgd(0.1, momentum=0.9),
)
broken(
    "nations_life_tanh_small_batches/two_zero_layers",
    "vanishing|stalled|dead",
    "weights_too_small",
    ("lin1", "last"),
    dict(surgery=drawn(nn.init.zeros_, "lin1", "last")),
)
broken(
    "hues_relu_no_bias/lone_1e_4",
    *SMALL,
    ("lin3",),
    dict(surgery=times("lin3", 1e-4)),
    model=sequential(64, 64, 64, 64, 64),
    init=he,
    optimizer=sgd(0.02),
    steps=100,
)
broken(
    "names_bag_heavy_dropout/lone_1e_4",
    *SMALL,
    ("lin2",),
    dict(surgery=times("lin2", 1e-4)),
    model=sequential(96, 64, 64, 48, act=nn.LeakyReLU),
    init=he,
    optimizer=sgd(0.05, momentum=0.5),
    steps=100,
)
broken(
    "names_tokens_side_by_side/vectors_1e_5",
    *SMALL,
    ("embed",),
    dict(surgery=times("embed", 1e-5)),
    optimizer=sgd(0.2),
)
broken(
    "breast_unrolled_codes/first_and_last",
    *SMALL,
    ("read", "dictionary"),
    dict(surgery=both(times("read", 1e-5), times("dictionary", 1e-5))),
    optimizer=sgd(0.3),
    steps=90,
)

# Activations that saturate.
FLAT = ("vanishing|saturated", "saturating_activation")
broken(
    "continent_eight_he/sigmoid",
    *FLAT,
    ANY,
    dict(model=numbered(*[64] * 8, act=torch.sigmoid)),
    model=numbered(*[64] * 8, act=torch.tanh),
    init=xavier,
)
broken(
    "hues_selu_20/sigmoid_14",
    *FLAT,
    ANY,
    dict(model=units(14, 48, torch.sigmoid)),
    model=units(14, 48, torch.tanh),
    init=xavier,
)
broken(
    "nations_life_pyramid/softmax_between",
    *FLAT,
    ANY,
    dict(model=numbered(*[48] * 5, act=partial(F.softmax, dim=1))),
    model=numbered(*[48] * 5),
)
broken(
    "hues_cosine_to_nothing/hard_limits",
    *FLAT,
    ANY,
    dict(model=numbered(*[48] * 6, act=F.hardsigmoid)),
    model=numbered(*[48] * 6, act=F.hardswish),
    init=he,
    optimizer=adam(2e-3),
)
broken(
    "epochs_continent_deep_tanh/lone_bias",
    *FLAT,
    part(2),
    dict(surgery=shifted("body.2.lin", -18.0)),
)
broken(
    "vae_functions_strong_prior/lone_bias",
    *FLAT,
    ("encoder.0", "encoder.1", "encoder"),
    dict(surgery=shifted("encoder.0", 25.0)),
)

# Activations without bound.
STEEP = ("exploding|nonfinite", "unbounded_activation")
for name, act in {
    "squares": torch.square,
    "exponentials": torch.exp,
    "x_exp_x": lambda x: x * torch.exp(x),
}.items():
    broken(
        f"continent_seven_tanh/{name}",
        *STEEP,
        ANY,
        dict(model=units(6, 40, act)),
        init=he,
        optimizer=sgd(0.01, momentum=0.9),
    )
broken(
    "nations_life_pyramid/fourth_powers",
    *STEEP,
    ANY,
    dict(model=numbered(64, 48, 32, 16, act=lambda x: x**4)),
    init=he,
)

# Units that never fire.
DEAD = ("dead", "dead_relu")
broken(
    "continent_batchnorm_plain_6/norm_bias",
    *DEAD,
    ("norm3", "fc3"),
    dict(surgery=shifted("norm3", -9.0)),
)
broken(
    "heads_three_answers/first_bias",
    *DEAD,
    ("body.0", "body.1", "body"),
    dict(surgery=shifted("body.0", -60.0)),
)
broken(
    "names_bag_heavy_dropout/second_bias",
    *DEAD,
    ("lin1", "act1"),
    dict(surgery=shifted("lin1", -60.0)),
)
broken("survival_words_cox/second_bias", *DEAD, ("2", "3"), dict(surgery=shifted("2", -80.0)))
broken(
    "nations_life_pyramid/negative_weights",
    *DEAD,
    ("fc2",),
    dict(surgery=drawn(nn.init.uniform_, "fc2", a=-0.5, b=-0.1)),
)
