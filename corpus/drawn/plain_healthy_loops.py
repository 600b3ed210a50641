"""Healthy rows on vectors whose loop is not the plain one."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import plain_science as science
from corpus.trainings import plain_tasks as tables
from corpus.trainings import plain_together as together
from corpus.trainings import tasks
from corpus.trainings.optimizers import of
from corpus.trainings.plain_loops import density, in_epochs, metric_learning, variational
from corpus.trainings.plain_nets import kan, numbered, sequential, units
from corpus.trainings.plain_parts import tokens

HISTORIES = partial(tables.echo, "histories")

# Epochs, loaders, patience.
sound(
    "epochs_life_patience",
    in_epochs,
    task=tables.life,
    model=numbered(64, 32),
    schedule=partial(schedules.ExponentialLR, gamma=0.9),
)
sound(
    "epochs_names_clipped",
    in_epochs,
    task=tables.names,
    model=tokens(12, 48),
    optimizer=adamw(3e-3),
    batch=96,
    epochs=5,
    clip=0.5,
)
sound(
    "epochs_hues_sgd_steps",
    in_epochs,
    task=tables.hues,
    model=sequential(64, 64),
    optimizer=sgd(0.1, momentum=0.9),
    batch=32,
    epochs=10,
    schedule=partial(schedules.StepLR, step_size=4, gamma=0.3),
)
sound(
    "epochs_continent_deep_tanh",
    in_epochs,
    task=tables.continent,
    model=units(5, 48, torch.tanh),
    optimizer=of("RAdam", lr=3e-3),
    batch=48,
)

# Codes, densities, distances.
sound("vae_tumours", variational, task=partial(tables.echo, "breast_cancer"), warm=100)
sound(
    "vae_histories_wide_code",
    variational,
    task=HISTORIES,
    width=128,
    latent=16,
    act=nn.ReLU,
    optimizer=adamw(3e-3),
    clip=1.0,
    steps=150,
)
sound(
    "vae_functions_strong_prior",
    variational,
    task=partial(tables.echo, "functions"),
    beta=0.5,
    warm=150,
    act=nn.Tanh,
)
sound("density_tumours", density, rows=lambda: tables.echo("breast_cancer").x)
sound(
    "density_histories_deep",
    density,
    rows=lambda: tables.histories().flatten(1),
    depth=6,
    width=72,
    optimizer=of("NAdam", lr=2e-3),
    steps=120,
)
sound(
    "density_nations_sgd",
    density,
    rows=lambda: tables.continent().x,
    depth=4,
    optimizer=sgd(0.1, momentum=0.9),
)
BAG = partial(tables.names, bag=True)
sound("metric_names_proxies", metric_learning, task=BAG)
sound(
    "metric_digits_triplets",
    metric_learning,
    task=tasks.digits,
    kind="triplets",
    optimizer=adam(1e-3),
)
sound(
    "metric_hues_centres",
    metric_learning,
    task=tables.hues,
    kind="centres",
    length=lambda z: z,
    optimizer=sgd(0.05, momentum=0.9),
)
sound(
    "metric_digits_pairs",
    metric_learning,
    task=tasks.digits,
    kind="pairs",
    optimizer=of("RMSprop", lr=1e-3),
)

# Equations and trajectories.
sound("equation_swing", science.physics, optimizer=adam(1e-2), steps=200)
sound("equation_warmth", science.physics, kind="warmth", act=nn.SiLU, depth=3, steps=150)
sound(
    "equation_load_energy",  # the loss ends below zero
    science.physics,
    kind="load",
    act=nn.Tanh,
    weight=50.0,
    optimizer=adam(1e-2),
)
sound(
    "equation_swing_lbfgs",
    science.physics,
    optimizer=of("LBFGS", max_iter=8, line_search_fn="strong_wolfe"),
    steps=20,
)
sound(
    "equation_warmth_weighted",
    science.physics,
    kind="warmth",
    weight=30.0,
    width=24,
    act=nn.GELU,
    optimizer=adam(1e-2),
    schedule=partial(schedules.ExponentialLR, gamma=0.993),
    steps=250,
)
sound("trajectory_runge", science.trajectories)
sound(
    "trajectory_euler_relu_clipped",
    science.trajectories,
    scheme="euler",
    act=nn.ReLU,
    optimizer=sgd(0.1, momentum=0.9),
    clip=1.0,
    steps=100,
)

# Order, links, survival.
sound("links_novel_order", science.links)
sound(
    "links_karate_distance",
    science.links,
    graph="karate_club_graph",
    kind="near",
    std=0.5,
    optimizer=adam(1e-2),
)
sound(
    "links_novel_sparse",
    science.links,
    kind="share",
    sparse=True,
    optimizer=of("SparseAdam", lr=3e-2),
)
sound("survival_words_cox", science.survival)
sound("survival_words_exponential", science.survival, loss=science.lasting, act=nn.Tanh)
sound(
    "survival_words_pairs", science.survival, loss=science.waiting, batch=96, optimizer=adam(3e-3)
)

# Several parts at once.
sound("heads_three_answers", together.many_heads)
sound(
    "heads_balanced",
    together.many_heads,
    balance=True,
    act=nn.SiLU,
    weights=(1.0, 2.0, 0.5),
    optimizer=adamw(3e-3),
)
sound("blind_to_the_year", together.blind, strength=0.1)
sound("two_motors_sparse_vectors", together.two_motors)
sound("layer_by_layer_names", together.layer_by_layer)
sound("imagined_tumours", together.imagined)
sound(
    "closure_life_batches", together.closure, task=tables.life, model=numbered(24, act=torch.tanh)
)
sound(
    "closure_hues_splines",
    together.closure,
    task=tables.hues,
    model=kan(8),
    optimizer=of("LBFGS", max_iter=4, line_search_fn="strong_wolfe"),
    steps=20,
)
sound("ensemble_hues_mapped", together.ensemble)
sound("by_hand_wine", together.by_hand)
