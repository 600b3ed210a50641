"""Healthy rows on vectors: networks of every kind on tables that travel inside packages."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, he, sgd
from corpus.trainings import plain_losses as losses
from corpus.trainings import plain_tasks as tables
from corpus.trainings import tasks
from corpus.trainings.optimizers import of
from corpus.trainings.plain_nets import (
    numbered,
    residual,
    sequential,
    spectrum,
    trunk,
    units,
)
from corpus.trainings.plain_parts import (
    Column,
    Gate,
)

clipped = partial(nn.utils.clip_grad_norm_, max_norm=1.0)

# Ordinary perceptrons in the styles of their users.
sound(
    "nations_life_pyramid",
    task=tables.life,
    model=numbered(128, 64, 32, 16),
    optimizer=adam(2e-3),
    steps=200,
)
sound(
    "nations_life_tanh_small_batches",
    task=tables.life,
    model=sequential(16, 16, act=nn.Tanh),
    batch=4,
    optimizer=sgd(0.02),
    steps=300,
)
sound(
    "nations_life_raw_years_normed",  # raw inputs are harmless behind a batch norm
    task=partial(tables.life, raw=True),
    model=lambda t: nn.Sequential(
        nn.BatchNorm1d(5), nn.Linear(5, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(),
        nn.Linear(48, 1),
    ),
    batch=128,
    optimizer=adam(5e-3),
    steps=250,
)  # fmt: skip
sound(
    "continent_wide_momentum",
    task=tables.continent,
    model=numbered(256, act=F.silu),
    batch=96,
    optimizer=sgd(0.1, momentum=0.9),
    steps=150,
)
sound(
    "continent_eight_he",
    task=tables.continent,
    model=numbered(*[64] * 8),
    init=he,
    optimizer=sgd(0.01, momentum=0.9),
    steps=200,
)
sound(
    "continent_seven_tanh",
    task=tables.continent,
    model=units(7, 40, torch.tanh),
    optimizer=adam(2e-3),
    steps=200,
)
sound(
    "continent_batchnorm_plain_6",
    task=tables.continent,
    model=numbered(*[48] * 6, norm=nn.BatchNorm1d),
    batch=64,
    optimizer=of("RMSprop", lr=1e-3, momentum=0.9),
)
sound(
    "hues_relu_no_bias",
    task=tables.hues,
    model=sequential(64, 64, 64, bias=False),
    optimizer=adamw(3e-3, weight_decay=0.05),
    steps=200,
)
sound(
    "hues_unscaled_bytes_adam",  # 0 to 255, and Adam learns all the same
    task=partial(tables.hues, raw=True),
    model=sequential(64, 32, act=nn.LeakyReLU),
    optimizer=adam(1e-3),
    steps=300,
)
sound(
    "tips_huber_ridge",
    task=partial(tables.tips, F.huber_loss),
    model=numbered(24),
    batch=None,
    optimizer=adam(1e-2, weight_decay=1e-2),
    steps=120,
)
sound(
    "tips_log_cosh_weight_norm",
    task=partial(tables.tips, losses.log_cosh),
    model=lambda t: nn.Sequential(
        weight_norm(nn.Linear(9, 32)), nn.Softplus(), weight_norm(nn.Linear(32, 1))
    ),
    optimizer=of("NAdam", lr=5e-3),
    steps=200,
)
sound(
    "cars_fourier",
    task=tables.cars,
    model=spectrum(16, 0.5),
    batch=24,
    optimizer=adam(5e-3),
    steps=200,
)
sound(
    "names_bag_heavy_dropout",
    task=partial(tables.names, bag=True),
    model=sequential(128, 64, drop=0.5),
    optimizer=adam(3e-3),
    steps=120,
)
sound(
    "names_bag_linear_rprop",
    task=partial(tables.names, bag=True),
    model=lambda t: nn.Linear(300, t.out),
    batch=None,
    optimizer=of("Rprop", lr=1e-3),
    steps=40,
)

# Depth, with and without skips.
sound(
    "nations_life_residual_12",
    task=tables.life,
    model=residual(12),
    optimizer=adamw(1e-3),
    steps=70,
)
sound(
    "continent_rezero_30",
    task=tables.continent,
    model=residual(30, 24, nn.ReLU, nn.Identity, 0.1),
    optimizer=adam(2e-3),
    steps=80,
)
sound(
    "continent_skip_batchnorm_24",
    task=tables.continent,
    model=units(24, 32, norm=nn.BatchNorm1d, skip=True),
    batch=64,
    optimizer=adamw(2e-3),
    steps=70,
    clip=clipped,
)
sound(
    "hues_selu_20",
    task=tables.hues,
    model=units(20, 48, F.selu),
    init=partial(he, scale=0.5**0.5),
    optimizer=adam(5e-4),
    steps=150,
)
sound(
    "wine_gated_rms_16",
    task=partial(tasks.table, "wine"),
    model=trunk(lambda w, i: Gate(w, F.silu), 16, 24),
    batch=16,
    optimizer=adam(1e-3),
    steps=80,
)
sound(
    "breast_bilinear_gates",
    task=tasks.tumours,
    model=trunk(lambda w, i: Gate(w, lambda a: a), 3, 32),
    optimizer=of("Adamax", lr=3e-3),
)
sound(
    "breast_growing_columns",
    task=tasks.tumours,
    model=lambda t: Column(30, 8, 12, 1),
    optimizer=sgd(0.05, momentum=0.8, nesterov=True),
)

# How they are optimised.
sound(
    "nations_life_one_cycle",
    task=tables.life,
    model=numbered(64, 64, act=F.mish),
    optimizer=sgd(0.01, momentum=0.9),
    schedule=partial(schedules.OneCycleLR, max_lr=0.15, total_steps=201, pct_start=0.3),
    steps=200,
)
sound(
    "continent_large_rate_warmed",
    task=tables.continent,
    model=numbered(64, 64, norm=nn.LayerNorm),
    batch=None,
    optimizer=sgd(1.0),
    schedule=partial(schedules.LinearLR, start_factor=0.02, total_iters=40),
    steps=150,
)
sound(
    "hues_cosine_to_nothing",
    task=tables.hues,
    model=sequential(48, 48, act=nn.Hardswish),
    optimizer=adamw(1e-2),
    schedule=partial(schedules.CosineAnnealingLR, T_max=200),
    steps=200,
)
sound(
    "wine_belief",
    task=partial(tasks.table, "wine"),
    model=numbered(48, 24, act=torch.tanh),
    optimizer=lambda p: losses.Belief(p, lr=3e-3),
    batch=24,
)
sound(
    "tips_langevin",
    task=tables.tips,
    model=numbered(24, act=torch.tanh),
    optimizer=lambda p: losses.Langevin(p, lr=0.02, noise=0.05),
    steps=200,
)
sound(
    "continent_accumulated_bfloat16",
    task=tables.continent,
    model=residual(4, 48),
    mixed=torch.bfloat16,
    accumulate=4,
    batch=16,
    optimizer=adamw(3e-3),
    steps=80,
)
sound(
    "hues_half_with_scaler",
    task=tables.hues,
    model=sequential(96, 96),
    mixed=torch.float16,
    scaler=partial(torch.amp.GradScaler, "cpu", init_scale=2.0**20),
    optimizer=adam(3e-3),
    steps=120,
)
