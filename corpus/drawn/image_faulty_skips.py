"""Faulty rows on images: depth without skips, with and without norms, and recurrence."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.drawn import broken
from corpus.recipes import adam, he, sgd
from corpus.trainings import image_blocks as blocks
from corpus.trainings import image_nets as nets
from corpus.trainings import image_pixels as pixels
from corpus.trainings.image_blocks import tower

Plain, NORM = blocks.Plain, nn.BatchNorm2d

# Depth without skips, without and with normalisation.
COLLAPSED = ("collapsed", "depth_without_skip")
SHATTERED = ("exploding|shattered", "normalization_without_skip")
for name, words, change, more in (
    (
        "image_plain_selu_scratch/leaky_44",
        COLLAPSED,
        dict(model=tower(partial(Plain, act=nn.LeakyReLU), 44, 12)),
        dict(
            model=tower(partial(Plain, act=nn.LeakyReLU), 4, 12),
            init=he,
            optimizer=sgd(0.01, momentum=0.9),
            steps=70,
        ),
    ),
    (
        "image_funnel_pieces/cleaner_36",
        COLLAPSED,
        dict(model=pixels.cleaner(36, 12, None, take=False)),
        dict(
            model=pixels.cleaner(4, 12, None, take=False),
            init=he,
            optimizer=adam(1e-3),
            batch=16,
            steps=60,
        ),
    ),
    (
        "image_epochs_cosine/depth_40",
        COLLAPSED,
        dict(model=tower(Plain, 40, 8)),
        dict(
            model=tower(Plain, 4, 8),
            surgery=he,
            optimizer=adam(2e-3),
            batch=32,
            epochs=3,
        ),
    ),
    (
        "image_resnet_basic/no_skips_24",
        SHATTERED,
        dict(model=tower(partial(blocks.Basic, skip=False), 24, 8)),
        dict(model=tower(blocks.Basic, 24, 8), steps=50, optimizer=adam(3e-3), batch=16),
    ),
    (
        "image_plain_lookahead_place/batchnorm_45",
        SHATTERED,
        dict(model=tower(partial(Plain, norm=NORM, share=0.3), 45, 8)),
        dict(
            model=tower(partial(Plain, norm=NORM, skip=True, share=0.3), 45, 8),
            optimizer=adam(3e-3),
            steps=50,
            batch=24,
        ),
    ),
    (
        "image_cleaner_batchnorm/depth_44",
        SHATTERED,
        dict(model=pixels.cleaner(44, 8, take=False)),
        dict(model=pixels.cleaner(4, 8, take=False), batch=8, steps=50),
    ),
    (
        "image_epochs_cosine/batchnorm_48",
        SHATTERED,
        dict(model=tower(partial(Plain, act=nn.LeakyReLU, norm=NORM), 48, 8)),
        dict(
            model=tower(partial(Plain, act=nn.LeakyReLU, norm=NORM), 4, 8),
            batch=32,
            epochs=3,
            limit=700,
            optimizer=sgd(0.05, momentum=0.9),
        ),
    ),
):
    broken(name, *words, ANY, change, **more)

# Recurrent weights.
for name, pathology, layers, change, more in (
    (
        "image_again_12/radius_5",
        "exploding",
        ("back",),
        dict(model=nets.again(16, radius=5.0, act=F.relu)),
        dict(model=nets.again(16, act=F.relu), optimizer=adam(2e-3)),
    ),
    (
        "image_again_12/radius_002",
        "vanishing",
        ("back",),
        dict(model=nets.again(16, radius=0.02)),
        dict(optimizer=sgd(0.02, momentum=0.9), steps=120),
    ),
    (
        "image_strips_place/radius_15",
        "exploding|saturated",
        ("rnn",),
        dict(model=nets.strips(radius=15.0)),
        {},
    ),
    ("image_corridor_rnn/radius_005", "vanishing", ("rnn",), dict(radius=0.05), {}),
):
    broken(name, pathology, "recurrent_weights", layers, change, **more)
