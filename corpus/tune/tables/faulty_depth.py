"""Faulty rows of initialisation and activation."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from corpus import ANY
from corpus.recipes import adam, gaussian, he, sgd, untouched, xavier
from corpus.trainings import others
from corpus.trainings.networks import convolutions, dense, hourglass
from corpus.trainings.surgery import all_times, block, both, put, shifted, times
from corpus.tune.tables import broken

CNN8 = dict(model=convolutions(8, 12, norm=None), init=he, optimizer=sgd(0.02, momentum=0.9))

# Weights too large, everywhere or in one layer.
LARGE = ("exploding", "weights_too_large")
broken("digits_leaky_he_12/weights_x3", *LARGE, ANY, dict(init=partial(he, scale=3.0)))
broken("cnn_plain_relu/weights_x4", *LARGE, ANY, dict(init=partial(he, scale=4.0)), **CNN8)
BEHIND = ("exploding|saturated", "weights_too_large")  # norms hide the growth from the depth
broken(
    "hf_gpt2/std_one",
    *BEHIND,
    ANY,
    dict(
        model=others.from_config(
            "GPT2Config", "GPT2LMHeadModel", initializer_range=1.0, **others.GPT2
        )
    ),
)
broken(
    "hf_llama/std_one",
    *BEHIND,
    ANY,
    dict(
        model=others.from_config(
            "LlamaConfig", "LlamaForCausalLM", initializer_range=1.0, **others.SMALL
        )
    ),
)
broken("code_gpt/weights_x12", *BEHIND, ANY, dict(init=all_times(12.0)))
broken("x_decoder_rotary/weights_x15", *BEHIND, ANY, dict(init=all_times(15.0)))
broken("vit_patches/weights_x30", *BEHIND, ANY, dict(init=all_times(30.0)))
broken(
    "digits_leaky_he_12/lone_x40",
    *LARGE,
    block(6),
    dict(surgery=times("blocks.6", 40.0)),
    steps=100,
)
broken(
    "hourglass_relu/lone_x50",
    *LARGE,
    ("up.0",),
    dict(surgery=times("up.0", 50.0)),
    optimizer=sgd(0.2, momentum=0.9),
    model=hourglass((48, 32)),
)
broken("cnn_plain_relu/lone_x30", *LARGE, block(5), dict(surgery=times("blocks.5", 30.0)), **CNN8)
broken(
    "graph_gcn/lone_x100",
    *LARGE,
    ("convs.1", "convs.1.lin"),
    dict(surgery=times("convs.1", 100.0)),
    steps=120,
    optimizer=sgd(0.1, momentum=0.9),
    model=others.graph(lambda g, w: g.GCNConv(w, w), depth=3),
)
broken(
    "digits_prelu_nesterov/lone_x60",
    *LARGE,
    block(3),
    dict(surgery=times("blocks.3", 60.0)),
    model=dense(6, 48, nn.PReLU),
    init=he,
)

# Too small.
SMALL = ("vanishing", "weights_too_small")
broken(
    "digits_leaky_he_12/default_24",
    *SMALL,
    ANY,
    dict(init=untouched),
    model=dense(24, 64, nn.LeakyReLU),
    optimizer=adam(3e-4),
)
broken("cnn_plain_relu/std_001", *SMALL, ANY, dict(init=partial(gaussian, std=0.01)), **CNN8)
broken(
    "breast_elu_adagrad/weights_x02",
    *SMALL,
    ANY,
    dict(init=partial(he, scale=0.2)),
    model=dense(10, 32, nn.ELU),
    init=he,
    optimizer=sgd(0.02),
)
broken(
    "graph_gcn/weights_x003",
    *SMALL,
    ANY,
    dict(init=all_times(0.03)),
    model=others.graph(lambda g, w: g.GCNConv(w, w), depth=4),
)
broken(
    "digits_leaky_he_12/lone_1e_4",
    *SMALL,
    block(7),
    dict(surgery=times("blocks.7", 1e-4)),
    optimizer=sgd(0.05),
    steps=100,
)
broken(
    "cnn_plain_relu/lone_1e_4",
    *SMALL,
    block(4),
    dict(surgery=times("blocks.4", 1e-4)),
    **{**CNN8, "optimizer": sgd(0.02), "steps": 80},
)
broken(
    "hourglass_tanh_denoising/lone_1e_4",
    *SMALL,
    ("down.2",),
    dict(surgery=times("down.2", 1e-4)),
    optimizer=sgd(1.0),
    steps=120,
    model=hourglass((48, 32, 24), nn.Tanh),
)
broken(
    "diabetes_leaky_adadelta/weights_x02",
    *SMALL,
    ANY,
    dict(init=partial(he, scale=0.2)),
    init=he,
    model=dense(10, 32, nn.LeakyReLU),
    optimizer=sgd(0.02, momentum=0.9),
)

# Activations that saturate.
FLAT = ("vanishing|saturated", "saturating_activation")
broken(
    "digits_softsign/sigmoid_9",
    *FLAT,
    ANY,
    dict(model=dense(9, 64, nn.Sigmoid)),
    model=dense(9, 64, nn.Softsign),
    init=xavier,
    optimizer=adam(1e-3),
)
broken(
    "cnn_tanh_lion/sigmoid_8",
    *FLAT,
    ANY,
    dict(model=convolutions(8, 12, nn.Sigmoid, None)),
    model=convolutions(8, 12, nn.Tanh, None),
    optimizer=sgd(0.05, momentum=0.9),
)
broken("digits_hardtanh_8/hardsigmoid_8", *FLAT, ANY, dict(model=dense(8, 64, nn.Hardsigmoid)))
broken(
    "hourglass_tanh_denoising/sigmoid_8",
    *FLAT,
    ANY,
    dict(model=hourglass((56, 48, 40, 32), nn.Sigmoid)),
    init=xavier,
    model=hourglass((56, 48, 40, 32), nn.Tanh),
)
broken(
    "wine_silu_nadam/sigmoid_10",
    *FLAT,
    ANY,
    dict(model=dense(10, 48, nn.Sigmoid)),
    model=dense(10, 48, nn.Tanh),
    init=xavier,
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "graph_gcn/sigmoid_6",
    *FLAT,
    ANY,
    dict(model=others.graph(lambda g, w: g.GCNConv(w, w), 6, act=nn.Sigmoid)),
    model=others.graph(lambda g, w: g.GCNConv(w, w), 6, act=nn.Tanh),
)
broken(
    "digits_softsign/lone_tanh_bias",
    *FLAT,
    block(3),
    dict(surgery=shifted("blocks.3.linear", 15.0)),
    model=dense(6, 48, nn.Tanh),
    init=xavier,
)
broken(
    "breast_elu_adagrad/lone_sigmoid_bias",
    *FLAT,
    block(2),
    dict(surgery=both(put("blocks.2.act", nn.Sigmoid), shifted("blocks.2.linear", -16.0))),
    model=dense(4, 32, nn.ELU),
    optimizer=sgd(0.1),
)


class Signed(nn.Module):
    """x |x|: a square that keeps its sign."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.abs()


class Cube(nn.Module):
    """The third power."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**3


class Sinh(nn.Module):
    """Steep on both sides."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sinh(2 * x)


STEEP = ("exploding|nonfinite", "unbounded_activation")
for name, act, depth in (("signed", Signed, 7), ("cube", Cube, 4), ("sinh", Sinh, 5)):
    broken(
        f"digits_prelu_nesterov/{name}_{depth}",
        *STEEP,
        ANY,
        dict(model=dense(depth, 64, act)),
        model=dense(depth, 64, nn.Tanh),
        init=he,
        optimizer=sgd(0.02, momentum=0.9),
    )
broken(
    "cnn_plain_relu/signed_6",
    *STEEP,
    ANY,
    dict(model=convolutions(6, 12, Signed, None)),
    model=convolutions(6, 12, norm=None),
    init=he,
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "graph_gcn_wine_sgd/cube_4",
    *STEEP,
    ANY,
    dict(model=others.graph(lambda g, w: g.GCNConv(w, w), 4, act=Cube)),
    init=all_times(1.7),
    model=others.graph(lambda g, w: g.GCNConv(w, w), 4),
    optimizer=sgd(0.05),
)

# Dead units.
DEAD = ("dead", "dead_relu")
RELU4 = dict(model=dense(4, 64), init=he, optimizer=sgd(0.1, momentum=0.5))
broken(
    "digits_plateau/dead_bias",
    *DEAD,
    block(2),
    dict(surgery=shifted("blocks.2.linear", -100.0)),
    **RELU4,
)
broken("cnn_plain_relu/dead_bias", *DEAD, block(2), dict(surgery=shifted("blocks.2.conv", -100.0)))
broken(
    "hourglass_relu/dead_bias", *DEAD, ("down.1", "act"), dict(surgery=shifted("down.1", -100.0))
)
broken("graph_sage/dead_stem", *DEAD, ("stem", "act"), dict(surgery=shifted("stem", -200.0)))
broken(
    "digits_bfloat16_autocast_adamw/dead_bias",
    *DEAD,
    block(1),
    dict(surgery=shifted("blocks.1.linear", -100.0)),
)
broken(
    "diabetes_median/dead_first", *DEAD, block(0), dict(surgery=shifted("blocks.0.linear", -100.0))
)
