"""Healthy rows: equations, invertible maps, contrast, inner loops."""

from __future__ import annotations

import torch
from torch import nn

from corpus.fresh import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import fresh_lib_meta as meta
from corpus.trainings import fresh_lib_more as more
from corpus.trainings import plain_tasks, tasks
from corpus.trainings.networks import dense
from corpus.trainings.optimizers import of

sound("lib_pinn_membrane", more.pinn)
sound(
    "lib_pinn_driven_silu",
    more.pinn,
    kind=more.driven,
    act=nn.SiLU,
    width=24,
    depth=4,
    optimizer=adam(1e-2),
    clip=1.0,
)
sound(
    "lib_pinn_membrane_lbfgs",
    more.pinn,
    width=20,
    optimizer=of("LBFGS", lr=0.5, max_iter=8, history_size=20, line_search_fn="strong_wolfe"),
    steps=25,
)
sound("lib_nvp_moons", more.nvp)
sound(
    "lib_nvp_rings_relu_clipped",
    more.nvp,
    data="rings",
    depth=8,
    act=nn.ReLU,
    width=48,
    clip=1.0,
    bound=lambda s: 2 * torch.tanh(s / 2),
    optimizer=adamw(5e-3),
)
sound("lib_moco_digits", more.moco)
sound(
    "lib_supcon_digits_sgd",
    more.moco,
    labels=True,
    depth=3,
    width=48,
    heat=0.1,
    optimizer=sgd(0.1, momentum=0.9, weight_decay=1e-4),
)
sound("lib_maml_sines", meta.sines, inner=0.1, outer=adam(5e-3))
sound(
    "lib_reptile_sines_tanh",
    meta.sines,
    kind="reptile",
    act=nn.Tanh,
    inner=0.2,
    passes=3,
    outer=adam(5e-3),
)
sound("lib_fixmatch_digits", meta.fixmatch)
sound(
    "lib_fixmatch_batchnorm_adam",
    meta.fixmatch,
    norm=True,
    act=nn.SiLU,
    width=48,
    sure=0.8,
    known=150,
    optimizer=adamw(3e-3),
)
sound(
    "lib_hardened_digits_growing",
    meta.hardened,
    model=dense(3, 56, nn.GELU),
    growing=True,
    radius=0.3,
    optimizer=adam(3e-3),
)
sound(
    "lib_hardened_continent_ridge",
    meta.hardened,
    task=plain_tasks.continent,
    model=dense(2, 40, nn.LeakyReLU),
    radius=0.1,
    inner=1,
    optimizer=sgd(0.05, momentum=0.9, weight_decay=1e-4),
)
sound(
    "lib_two_speeds_digits",
    meta.two_speeds,
    task=tasks.digits,
    width=48,
    body=lambda t: nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 48), nn.Tanh()),
)
sound(
    "lib_two_speeds_life",
    meta.two_speeds,
    task=plain_tasks.life,
    width=32,
    batch=64,
    slow=adam(3e-3),
    fast=of("Adagrad", lr=5e-2),
    clip=5.0,
    ordered=False,
    body=lambda t: nn.Sequential(
        nn.Linear(t.x.shape[1], 64), nn.Mish(), nn.Linear(64, 32), nn.Mish()
    ),
)
