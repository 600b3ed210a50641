"""Healthy rows on vectors: networks that are no plain perceptrons."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from corpus.drawn import sound
from corpus.recipes import adam, sgd
from corpus.trainings import plain_losses as losses
from corpus.trainings import plain_tasks as tables
from corpus.trainings import tasks
from corpus.trainings.optimizers import of
from corpus.trainings.plain_nets import (
    Bumps,
    Trees,
    cross,
    experts,
    kan,
    spectrum,
    waves,
)
from corpus.trainings.plain_parts import (
    Keep,
    Lambda,
    Pairs,
    Rising,
    Settled,
    Spiking,
    Steer,
    Unrolled,
    Writer,
    tokens,
)

BREAST = partial(tables.echo, "breast_cancer")
clipped = partial(nn.utils.clip_grad_norm_, max_norm=1.0)

# Networks of other kinds.
sound(
    "nations_wealth_cross",
    task=tables.wealth,
    model=cross(3),
    optimizer=adam(3e-3),
    steps=300,
    clip=partial(nn.utils.clip_grad_norm_, max_norm=10.0),
)
sound(
    "nations_life_splines",
    task=tables.life,
    model=kan(12),
    optimizer=adam(1e-2),
    steps=150,
)
sound(
    "continent_soft_trees",
    task=tables.continent,
    model=lambda t: Trees(4, 5, 12, 4),
    optimizer=adam(2e-2),
    steps=200,
)
sound(
    "nations_life_bumps",
    task=tables.life,
    model=lambda t: Bumps(5, 80, 1, 1.5),
    optimizer=adam(2e-2),
    steps=200,
)
sound(
    "continent_experts",
    task=tables.continent,
    model=experts(6, 2),
    optimizer=adam(5e-3),
    steps=200,
)
sound("painting_waves", task=tables.painting, model=waves(), batch=256, optimizer=adam(2e-3))
sound(
    "painting_fourier",
    task=tables.painting,
    model=spectrum(64, 6.0, 96),
    batch=256,
    optimizer=adam(5e-3),
    steps=200,
)
sound(
    "nations_life_steered",
    task=partial(tables.wealth, losses.log_cosh),
    model=lambda t: Steer(10, 5, 48, 1),
    optimizer=adam(5e-3),
    steps=250,
)
sound(
    "nations_wealth_written",
    task=tables.wealth,
    model=lambda t: Writer(10, 5, 12, 1),
    optimizer=adam(5e-3),
    steps=250,
    clip=clipped,
)
sound(
    "functions_rising",
    task=partial(tables.functions, unit=20.0),
    model=lambda t: Rising(15, 24, 1),
    optimizer=adam(1e-2),
    steps=250,
)
sound(
    "breast_unrolled_codes",
    task=BREAST,
    model=lambda t: Unrolled(30, 40, 12),
    optimizer=adam(2e-3),
    steps=150,
)
sound(
    "hues_settled_30",
    task=tables.hues,
    model=lambda t: Settled(3, 40, t.out, 30, 0.6),
    optimizer=adam(5e-3),
    steps=150,
)
sound(
    "hues_remembered_12",  # read once, then only the state goes round
    task=tables.hues,
    model=lambda t: Settled(3, 48, t.out, 12, 1.0, once=True),
    optimizer=adam(3e-3),
    steps=150,
)
sound(
    "iris_spiking",
    task=partial(tasks.table, "iris"),
    model=lambda t: Spiking(4, 48, 3, 8),
    optimizer=adam(1e-2),
    steps=150,
)
sound(
    "names_bag_winners",
    task=partial(tables.names, bag=True),
    model=lambda t: nn.Sequential(nn.Linear(300, 96), Keep(12), nn.Linear(96, 5)),
    optimizer=sgd(0.2),
    steps=150,
)
sound("names_tokens_side_by_side", task=tables.names, model=tokens(8, 64), optimizer=adam(3e-3))
sound(
    "names_tokens_mean_adagrad",
    task=tables.names,
    model=tokens(24, 32, mean=True, norm=True),
    batch=128,
    optimizer=of("Adagrad", lr=5e-2),
)
sound(
    "nations_factorised",
    task=tables.country_year,
    model=lambda t: Pairs(t, 6, 0.1),
    batch=128,
    optimizer=adam(3e-2),
    steps=250,
)
sound(
    "nations_tokens_noisy_targets",
    task=tables.country_year,
    model=tokens(6, 32),
    poison=lambda step, x, y: (x, y + torch.randn_like(y)),
    optimizer=adam(5e-3),
    steps=300,
)
sound(
    "digits_sets_of_halves",  # each half by the same weights, then the sum
    task=partial(tasks.digits, (4, 16)),
    model=lambda t: nn.Sequential(
        nn.Linear(16, 48), nn.ELU(), nn.Flatten(), nn.Linear(192, 48), nn.ELU(), nn.Linear(48, 10)
    ),
    batch=16,
    optimizer=of("ASGD", lr=0.1),
    steps=200,
)
sound(
    "breast_maxpool_pairs",
    task=tasks.tumours,
    model=lambda t: nn.Sequential(
        nn.Linear(30, 64), Lambda(lambda x: x.unflatten(1, (32, 2)).amax(2)), nn.Linear(32, 1)
    ),
    loss=losses.hinge,
    optimizer=sgd(0.05),
)
