"""Faulty rows of depth: no skip connections, with and without normalisation, and depth in time."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.recipes import adam, he, sgd
from corpus.trainings import tasks
from corpus.trainings.networks import convolutions, dense
from corpus.trainings.sequences import by_hand, recurrent
from corpus.tune.tables import broken

# Depth without skips, normalisation without skips.
PLAIN = ("collapsed", "depth_without_skip")
broken(
    "digits_leaky_he_12/depth_50",
    *PLAIN,
    ANY,
    dict(model=dense(50, 48)),
    steps=100,
    model=dense(4, 48),
    optimizer=sgd(0.01, momentum=0.9),
)
broken(
    "digits_leaky_he_12/depth_44_adam",
    *PLAIN,
    ANY,
    dict(model=dense(44, 64, nn.LeakyReLU)),
    steps=80,
    model=dense(4, 64, nn.LeakyReLU),
    optimizer=adam(1e-3),
)
broken(
    "digits_lookahead/depth_56",
    *PLAIN,
    ANY,
    dict(model=dense(56, 64)),
    steps=80,
    model=dense(4, 64),
    init=he,
    optimizer=sgd(0.01, momentum=0.9),
)
broken(
    "cnn_plain_relu/depth_40",
    *PLAIN,
    ANY,
    dict(model=convolutions(40, 8, norm=None)),
    init=he,
    model=convolutions(4, 8, norm=None),
    optimizer=sgd(0.01, momentum=0.9),
    steps=50,
)
BATCH = ("exploding|shattered", "normalization_without_skip")
NORM = nn.BatchNorm1d
broken(
    "digits_skip_batchnorm_24/plain_leaky_45",
    *BATCH,
    ANY,
    steps=80,
    batch=48,
    change=dict(model=dense(45, 48, nn.LeakyReLU, NORM)),
    model=dense(45, 48, nn.LeakyReLU, NORM, skip=True),
)
broken(
    "wine_silu_nadam/plain_relu_48",
    *BATCH,
    ANY,
    dict(model=dense(48, 48, nn.ReLU, NORM)),
    model=dense(48, 48, nn.ReLU, NORM, skip=True),
    batch=48,
    optimizer=adam(1e-3),
    steps=80,
)
broken(
    "digits_hardswish_groups/plain_batchnorm_56",
    *BATCH,
    ANY,
    steps=60,
    batch=48,
    change=dict(model=dense(56, 48, nn.ReLU, NORM)),
    optimizer=sgd(0.05, momentum=0.9),
    model=dense(3, 48, nn.ReLU, NORM),
)
broken(
    "cnn_batchnorm_elu/plain_relu_44",
    *BATCH,
    ANY,
    dict(model=convolutions(44, 6)),
    steps=50,
    model=convolutions(4, 6),
    optimizer=adam(3e-3),
)

# Recurrent weights.
GROW, FADE = ("exploding", "recurrent_weights"), ("vanishing", "recurrent_weights")
RELU = dict(nonlinearity="relu")
broken(
    "rnn_relu_pixels/radius_2",
    *GROW,
    ("rnn",),
    dict(model=recurrent(nn.RNN, 48, radius=2.2, **RELU)),
    clip=None,
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "rnn_tanh_rows/radius_12",
    *GROW,
    ("rnn",),
    dict(model=recurrent(nn.RNN, 48, radius=12.0)),
    task=partial(tasks.digits, (32, 2)),
    batch=64,
    model=recurrent(nn.RNN, 48, radius=1.0),
)
broken(
    "rnn_by_hand_pixels/radius_2",
    *GROW,
    ("rnn.back", "rnn"),
    dict(model=by_hand(48, 2.2, F.relu)),
    model=by_hand(48, 1.0, F.relu),
    optimizer=adam(1e-3),
)
broken("rnn_by_hand_pixels/radius_005", *FADE, ("rnn.back", "rnn"), dict(model=by_hand(48, 0.05)))
broken(
    "rnn_tanh_rows/radius_005",
    *FADE,
    ("rnn",),
    dict(model=recurrent(nn.RNN, 48, radius=0.05)),
    task=partial(tasks.digits, (32, 2)),
    batch=64,
    model=recurrent(nn.RNN, 48, radius=1.0),
    optimizer=adam(2e-3),
)
