"""Faulty rows of depth without skips, and of depth in time."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.drawn import broken
from corpus.recipes import adam, sgd
from corpus.trainings import seq_tasks
from corpus.trainings.seq_cells import elman, shell, temporal
from corpus.trainings.seq_faults import (
    kaiming,
)
from corpus.trainings.seq_loops import norm_clip
from corpus.trainings.seq_writers import Reduced

# Depth.
broken(
    "glyphs_temporal_plain/depth_45",
    "collapsed",
    "depth_without_skip",
    ANY,
    dict(model=shell(temporal(45), 24, "max")),
    model=shell(temporal(4), 24, "max"),
    surgery=kaiming,
    optimizer=adam(1e-3),
    batch=16,
    steps=60,
)
broken(
    "tides_reduced/depth_50",
    "collapsed",
    "depth_without_skip",
    ANY,
    dict(model=lambda t: Reduced(t, 48, 1, 50)),
    model=lambda t: Reduced(t, 48, 1, 2),
    surgery=kaiming,
    optimizer=adam(5e-4),
    steps=100,
)
broken(
    "tagging_temporal_sixteen_skips/plain_42",
    "collapsed",
    "depth_without_skip",
    ANY,
    dict(model=shell(temporal(42, nn.LeakyReLU), 16)),
    model=shell(temporal(3, nn.LeakyReLU), 16),
    surgery=kaiming,
    optimizer=sgd(0.02, momentum=0.9),
    steps=80,
)
BATCH = ("exploding|shattered", "normalization_without_skip", ANY)
NORM = nn.BatchNorm1d
for twin, act, depth, optimizer in (
    ("glyphs_temporal_plain", nn.ReLU, 40, adam(3e-3)),
    ("names_quasi", nn.LeakyReLU, 44, sgd(0.05, momentum=0.9)),
):
    broken(
        f"{twin}/batch_norm_{depth}",
        *BATCH,
        dict(model=shell(temporal(depth, act, NORM), 16, "max")),
        model=shell(temporal(4, act, NORM), 16, "max"),
        optimizer=optimizer,
        batch=16,
        steps=60,
    )
broken(
    "tides_reduced/batch_norm_48",
    *BATCH,
    dict(model=lambda t: Reduced(t, 32, 1, 48, NORM)),
    model=lambda t: Reduced(t, 32, 1, 3, NORM),
    optimizer=adam(2e-3),
    steps=60,
)

# Recurrent weights.
GROW, FADE = ("exploding|nonfinite", "recurrent_weights"), ("vanishing", "recurrent_weights")
HERE = ("body", "body.w_rec")
broken(
    "adding_relu_elman/radius_2",
    *GROW,
    HERE,
    dict(model=shell(elman(2.0, F.relu), 48)),
    task=partial(seq_tasks.adding, 24),
    clip=None,
)
broken(
    "lorenz_elman/radius_8",
    "exploding|saturated",
    "recurrent_weights",
    HERE,
    dict(model=shell(elman(8.0), 48)),
)
broken(
    "mackey_carried_gru/rnn_radius_12",
    "exploding|saturated",
    "recurrent_weights",
    ("cell",),
    dict(radius=12.0),
    radius=1.0,
    kind=nn.RNNCell,
    clip=None,
    optimizer=sgd(0.05, momentum=0.9),
    ahead=6,
)
broken(
    "glyphs_gru_cells/rnn_radius_003",
    *FADE,
    HERE,
    dict(model=shell(elman(0.03), 48)),
    task=partial(seq_tasks.glyphs, 24),
    model=shell(elman(1.0), 48),
    optimizer=sgd(0.02, momentum=0.9),
    clip=norm_clip(1.0),
    steps=200,
)
broken(
    "names_quasi/rnn_radius_003",
    *FADE,
    HERE,
    dict(model=shell(elman(0.03), 48)),
    task=partial(seq_tasks.identifiers, 18),
    model=shell(elman(1.0), 48),
    optimizer=adam(1e-3),
    clip=norm_clip(1.0),
    steps=150,
)
