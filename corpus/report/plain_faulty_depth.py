"""Faulty rows on vectors: initialisation, activations, depth, layers that are applied again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.recipes import Surgery, adam, he, sgd, xavier
from corpus.report import broken
from corpus.trainings.plain_nets import numbered, residual, units
from corpus.trainings.plain_parts import Settled
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
    "continent_eight_he/lone_1e_4",
    *SMALL,
    ("fc5",),
    dict(surgery=times("fc5", 1e-4)),
    optimizer=sgd(0.02),
    steps=120,
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
    ("nations_life_pyramid", 48, F.relu, 44, adam(1e-3)),
):
    broken(
        f"{name}/plain_{depth}",
        *BATCH,
        ANY,
        dict(model=units(depth, width, act, nn.BatchNorm1d)),
        model=units(depth, width, act, nn.BatchNorm1d, skip=True),
        batch=64,
        steps=60,
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
    "hues_settled_30/relu_gain_2",
    "exploding|nonfinite",
    "recurrent_weights",
    ("back",),
    dict(model=settled(2.5, 30, False, F.relu)),
    model=settled(0.5, 30, False, F.relu),
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "hues_remembered_12/gain_6",
    "exploding|saturated|shattered",
    "recurrent_weights",
    ("back",),
    dict(model=settled(8.0, 16, True, torch.tanh)),
)
broken(
    "hues_remembered_12/gain_015",
    "vanishing|stalled",
    "recurrent_weights",
    ("back",),
    dict(model=settled(0.1, 12, True, torch.tanh)),
    optimizer=sgd(0.02),
    steps=250,
)
