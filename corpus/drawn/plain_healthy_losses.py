"""Healthy rows on vectors: unusual losses."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import plain_losses as losses
from corpus.trainings import plain_tasks as tables
from corpus.trainings import tasks
from corpus.trainings.plain_nets import numbered, residual, sequential

# What is asked for.
sound(
    "nations_life_spread_known",
    task=losses.asked(tables.life, 2),
    model=numbered(48, 48, act=torch.tanh),
    loss=losses.both_known,
    judge=losses.seen(losses.first),
    optimizer=adam(5e-3),
    steps=200,
)
sound(
    "nations_wealth_student",
    task=losses.asked(tables.wealth, 2),
    model=numbered(64, 32),
    loss=losses.heavy,
    judge=losses.seen(losses.first),
    optimizer=adam(1e-2),
    steps=250,
)
sound(
    "tips_mixture_density",
    task=losses.asked(tables.tips, 12),
    model=numbered(48, act=torch.tanh),
    loss=losses.mixture,
    judge=losses.seen(losses.middle),
    optimizer=adam(1e-2),
    steps=250,
)
sound(
    "nations_life_deciles",
    task=losses.asked(tables.life, 9),
    model=sequential(64, 64, act=nn.Mish),
    loss=losses.quantiles,
    judge=losses.seen(lambda out: out[:, 4:5]),
    optimizer=adam(5e-3),
    steps=200,
)
sound(
    "tips_expectile",
    task=partial(tables.tips, losses.expectile(0.7)),
    model=sequential(16, act=nn.CELU),
    batch=8,
    optimizer=sgd(0.02),
    steps=250,
)
sound(
    "nations_life_ranked_score",
    task=losses.asked(tables.life, 2),
    model=residual(3, 32),
    loss=losses.ranked,
    judge=losses.seen(losses.first),
    optimizer=adamw(3e-3),
)
sound(
    "nations_wealth_tweedie",
    task=tables.wealth,
    model=sequential(48, 48, act=nn.Softplus),
    loss=losses.tweedie(1.5),
    judge=losses.seen(torch.exp),
    optimizer=adam(5e-3),
    steps=250,
)
sound(
    "functions_negative_binomial",
    task=losses.asked(tables.functions, 2),
    model=numbered(32, act=F.elu),
    loss=losses.overdispersed,
    judge=losses.seen(lambda out: out[:, :1].exp()),
    optimizer=adam(1e-2),
    steps=250,
)
sound(
    "functions_gamma_raw_counts",  # heavy tails on both sides
    task=partial(tables.functions, True, losses.gamma, 10.0),
    model=lambda t: nn.Sequential(nn.LayerNorm(15), nn.Linear(15, 32), nn.ReLU(), nn.Linear(32, 1)),
    judge=losses.seen(torch.exp),
    optimizer=adam(1e-2),
    steps=300,
)
sound(
    "functions_poisson",
    task=partial(tables.functions, loss=F.poisson_nll_loss),
    model=sequential(32, act=nn.Tanh),
    judge=losses.seen(torch.exp),
    optimizer=adam(1e-2),
    clip=partial(nn.utils.clip_grad_norm_, max_norm=5.0),
    steps=300,
)
sound(
    "nations_life_stairs",
    task=losses.asked(tables.life, 4, metric="bits"),
    model=sequential(48, 24),
    loss=losses.stairs,
    judge=losses.seen(lambda out: out[:, :1] - out[:, 1:2] - F.softplus(out[:, 2:3])),
    optimizer=adam(5e-3),
    steps=120,
)
sound(
    "breast_dice",
    task=tasks.tumours,
    model=numbered(32, act=F.gelu),
    loss=losses.overlap,
    batch=48,
    optimizer=adam(5e-3),
)
sound(
    "names_rare_kinds_weighted",
    task=partial(tables.names, bag=True, metric="error"),
    model=numbered(64),
    loss=partial(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 9.0, 12.0, 5.0])),
    optimizer=adam(3e-3),
    steps=120,
)
