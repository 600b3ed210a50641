"""Faulty rows on images: weights, activations, dead units."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.drawn import broken
from corpus.drawn.image_healthy_loops import mixer_of_noise
from corpus.recipes import Surgery, adam, gaussian, he, sgd
from corpus.trainings import image_blocks as blocks
from corpus.trainings import image_nets as nets
from corpus.trainings import image_pixels as pixels
from corpus.trainings.image_blocks import tower
from corpus.trainings.surgery import all_times, both, shifted, times

Plain = blocks.Plain


def names(*parts: str) -> tuple[str, ...]:
    """Names of blocks, with the parts that a block of `Plain` has."""
    return parts + tuple(f"{p}.{q}" for p in parts for q in ("conv", "act"))


def drawn_normal(*layers: str) -> Surgery:
    """nn.init.normal_ without a spread, on some layers or on all."""

    def change(model: nn.Module) -> None:
        for name, m in model.named_modules():
            if isinstance(m, (nn.Linear, nn.Conv2d)) and (name in layers or not layers):
                nn.init.normal_(m.weight)

    return change


# Weights too large.
LARGE = ("exploding", "weights_too_large")
PLAIN7 = dict(
    model=pixels.cleaner(7, 16, None, take=False),
    init=he,
    optimizer=sgd(0.01, momentum=0.9),
    steps=80,
)
EPOCHS = dict(
    model=tower(Plain, 3, 16), surgery=he, batch=32, optimizer=sgd(0.02, momentum=0.9), epochs=5
)
for name, layers, change, more in (
    ("image_cleaner_plain_7_absolute/drawn_normal", ANY, dict(init=drawn_normal()), PLAIN7),
    (
        "image_plain_selu_scratch/weights_x8",
        ANY,
        dict(init=all_times(8.0)),
        {},
    ),
    (
        "image_classic_relu_place/fc2_normal",
        ("fc2",),
        dict(surgery=times("fc2", 60.0)),
        dict(optimizer=sgd(0.05, momentum=0.9)),
    ),
    (
        "image_enlarger/conv2_x60",
        ("conv2",),
        dict(surgery=times("conv2", 60.0)),
        dict(optimizer=sgd(0.03, momentum=0.9)),
    ),
    (
        "image_remembering_double/weights_x12",
        ANY,
        dict(surgery=all_times(12.0)),
        dict(loss=F.mse_loss),
    ),
    (
        "image_epochs_cosine/block_x80",
        names("blocks.1"),
        dict(surgery=both(he, times("blocks.1", 80.0))),
        EPOCHS,
    ),
):
    broken(name, *LARGE, layers, change, **more)

# Weights too small.
SMALL = ("vanishing", "weights_too_small")
for name, layers, change, more in (
    (
        "image_cleaner_plain_7_absolute/std_a_hundredth",
        ANY,
        dict(init=partial(gaussian, std=0.01)),
        PLAIN7,
    ),
    (
        "image_classic_relu_place/std_a_hundredth",
        ANY,
        dict(init=partial(gaussian, std=0.01)),
        dict(optimizer=sgd(0.05, momentum=0.9)),
    ),
    (
        "image_funnel_pieces/code_1e_4",
        ("encoder.5", "extra"),
        dict(surgery=times("encoder.5", 1e-4)),
        dict(optimizer=sgd(0.3), steps=150),
    ),
    (
        "image_attacked_far/weights_x01",
        ANY,
        dict(surgery=all_times(0.1)),
        dict(optimizer=sgd(0.1, momentum=0.9), model=nets.classic(nn.Tanh)),
    ),
    (
        "image_unmixing_noise/weights_x005",
        ANY,
        dict(surgery=all_times(0.05)),
        dict(
            model=lambda: nn.Sequential(
                *(m for i in range(5) for m in (blocks.conv(12 if i else 2, 12), nn.ELU())),
                blocks.conv(12, 1),
            ),
            optimizer=sgd(0.05, momentum=0.9),
        ),
    ),
):
    broken(name, *SMALL, layers, change, **more)


# Activations that saturate.
FLAT = ("vanishing|saturated", "saturating_activation")
for name, layers, change, more in (
    (
        "image_plain_selu_scratch/sigmoid_7",
        ANY,
        dict(model=tower(partial(Plain, act=nn.Sigmoid), 7, 16)),
        dict(
            model=tower(partial(Plain, act=nn.ELU), 7, 16),
            init=he,
            optimizer=sgd(0.02, momentum=0.9),
        ),
    ),
    (
        "image_cleaner_plain_7_absolute/sigmoid_8",
        ANY,
        dict(model=pixels.cleaner(8, 16, None, nn.Sigmoid, False)),
        dict(
            model=pixels.cleaner(8, 16, None, nn.Tanh, False),
            optimizer=sgd(0.02, momentum=0.9),
            steps=80,
        ),
    ),
    (
        "image_funnel_tanh_digits_sgd/hardsigmoid",
        ANY,
        dict(model=pixels.funnel(12, 20, nn.Hardsigmoid)),
        {},
    ),
    (
        "image_classic_tanh_sgd/fc1_bias",
        ("fc1", "act"),
        dict(surgery=shifted("fc1", 25.0)),
        {},
    ),
    (
        "image_unmixing_velocity_pieces/bias_before_tanh",
        ("5", "6"),
        dict(surgery=shifted("5", -18.0)),
        dict(model=partial(mixer_of_noise, 3, 16, nn.Tanh)),
    ),
):
    broken(name, *FLAT, layers, change, **more)


class Squared(nn.Module):
    """The square of what a ReLU leaves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x).square()


class Exponential(nn.Module):
    """e to the x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


class Parabola(nn.Module):
    """x and its square."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x * x


STEEP = ("exploding|nonfinite", "unbounded_activation")
for name, change, more in (
    (
        "image_plain_lookahead_place/squared_7",
        dict(model=tower(partial(Plain, act=Squared), 7, 16)),
        dict(model=tower(Plain, 7, 16), init=he, optimizer=sgd(0.02, momentum=0.9)),
    ),
    (
        "image_cleaner_plain_7_absolute/exponential_4",
        dict(model=pixels.cleaner(4, 16, None, Exponential, False)),
        dict(model=pixels.cleaner(4, 16, None, nn.ELU, False), init=he),
    ),
    (
        "image_classic_relu_place/parabola",
        dict(model=nets.classic(Parabola)),
        dict(init=partial(he, scale=1.3), optimizer=sgd(0.01, momentum=0.9)),
    ),
    (
        "image_attacked/parabola_4",
        dict(model=tower(partial(Plain, act=Parabola), 4, 16)),
        dict(model=tower(Plain, 4, 16), optimizer=adam(2e-3), surgery=he, steps=70),
    ),
):
    broken(name, *STEEP, ANY, change, **more)


# Dead units.
DEAD = ("dead", "dead_relu")
for name, layers, change, more in (
    ("image_classic_relu_place/fc1_dead", ("fc1", "act"), dict(surgery=shifted("fc1", -60.0)), {}),
    (
        "image_epochs_cosine/block_dead",
        names("blocks.2"),
        dict(surgery=both(he, shifted("blocks.2.conv", -90.0))),
        EPOCHS,
    ),
    (
        "image_funnel_pieces/encoder_dead",
        ("encoder.2", "encoder.3"),
        dict(surgery=shifted("encoder.2", -70.0)),
        {},
    ),
    ("image_roaming/eyes_dead", ("conv", "act"), dict(surgery=shifted("conv", -20.0)), {}),
    (
        "image_seer_hybrid_8_opened_slowly/norm_bias_dead",
        ("patch_embed.1", "patch_embed.2"),
        dict(surgery=shifted("patch_embed.1", -12.0)),
        {},
    ),
    (
        "image_remembering_plain_adamw/fc_dead",
        ("fc", "act"),
        dict(surgery=shifted("fc", -30.0)),
        {},
    ),
):
    broken(name, *DEAD, layers, change, **more)
