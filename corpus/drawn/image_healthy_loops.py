"""Healthy rows on images whose loop is not the plain one: rivals, noise, views, phases, games."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import image_blocks as blocks
from corpus.trainings import image_games as games
from corpus.trainings import image_loops as loops
from corpus.trainings import image_nets as nets
from corpus.trainings import image_tasks as at
from corpus.trainings import image_views as views
from corpus.trainings import tasks
from corpus.trainings.image_blocks import conv, tower
from corpus.trainings.image_epochs import by_epochs
from corpus.trainings.optimizers import of

DIGITS = partial(tasks.digits, (1, 8, 8))


def mixer_of_noise(channels: int, width: int = 24, act: blocks.Part = nn.SiLU) -> nn.Module:
    """Convolutions over an image and its time; names are numbers."""
    return nn.Sequential(
        conv(channels + 1, width),
        act(),
        conv(width, width),
        nn.GroupNorm(4, width),
        act(),
        conv(width, width),
        act(),
        conv(width, channels),
    )


def sheet() -> nn.Module:
    """Fixed noise of eight channels becomes a photograph."""
    return nn.Sequential(
        conv(8, 16),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(),
        conv(16, 16),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(),
        conv(16, 3),
    )


def roughness(x: torch.Tensor) -> torch.Tensor:
    """How far neighbouring pixels are apart."""
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return 1e-3 * (across.square().mean() + down.square().mean())


sound("image_painters_logistic_steep", loops.painters, steep=0.1)
sound(
    "image_painters_relative_groups", loops.painters, kind="relative", norm=partial(nn.GroupNorm, 4)
)
sound("image_painters_hinge_spectral", loops.painters, kind="hinge", wrap=spectral_norm, act=nn.ELU)
sound("image_unmixing_noise", loops.unmixing, model=partial(mixer_of_noise, 1))
sound(
    "image_unmixing_velocity_pieces",
    loops.unmixing,
    aim="velocity",
    source="pieces",
    model=partial(mixer_of_noise, 3, 16, nn.GELU),
    optimizer=adamw(3e-3),
)
sound(
    "image_unmixing_image_sgd",
    loops.unmixing,
    aim="image",
    model=partial(mixer_of_noise, 1, 16),
    optimizer=sgd(0.05, momentum=0.9),
)
sound("image_slopes_of_energy", loops.slopes)
sound("image_slopes_softplus_wide", loops.slopes, act=nn.Softplus, width=24, noise=1.0)
sound("image_styled", loops.styled)
sound(
    "image_styled_smooth_sgd",
    loops.styled,
    smooth=roughness,
    optimizer=sgd(2.0, momentum=0.9),
)
sound("image_prior", loops.prior, model=sheet)
sound("image_queued", views.queued, optimizer=adam(4e-3))
sound("image_queued_hot_sgd", views.queued, heat=0.5, optimizer=sgd(0.3, momentum=0.9))
sound("image_two_views", views.two_views)
sound("image_drawn", views.drawn)
sound("image_drawn_below_zero", views.drawn, learned_spread=True, act=nn.SiLU, optimizer=adam(2e-3))
sound("image_tuned_frozen_first", views.tuned)
sound("image_tuned_sgd", views.tuned, frozen=10, optimizer=sgd(0.05, momentum=0.9))
sound("image_taught", views.taught)
sound("image_taught_cool_adamax", views.taught, heat=1.5, hint=0.0, optimizer=of("Adamax", lr=1e-2))
sound("image_attacked", views.attacked, model=tower(blocks.Before, 1, 16))
sound("image_attacked_far", views.attacked, reach=0.5, rounds=1, model=nets.classic(nn.GELU))
sound(
    "image_epochs_cosine",
    by_epochs,
    task=DIGITS,
    model=tower(partial(blocks.Plain, norm=nn.BatchNorm2d), 3, 16),
    optimizer=sgd(0.1, momentum=0.9),
    schedule=lambda o: schedules.CosineAnnealingLR(o, 4),
    best=True,
)
sound(
    "image_epochs_small_batches",
    by_epochs,
    task=partial(at.place, 8, 2),
    model=tower(blocks.StandardisedBlock, 2, 16),
    optimizer=of("RAdam", lr=5e-3),
    batch=12,
    limit=1000,
    epochs=2,
)
sound(
    "image_epochs_renewed_optimizer",
    by_epochs,
    task=partial(at.clearer, noise=0.4),
    model=lambda t: nn.Sequential(
        conv(3, 16), nn.Hardswish(), conv(16, 16), nn.ReLU(), conv(16, 3)
    ),
    optimizer=adam(5e-3),
    epochs=5,
    renew=True,
)
sound("image_roaming", games.roaming)
sound("image_roaming_critic", games.roaming, kind="critic", act=nn.Tanh, clip=0.5)
sound("image_roaming_clipped", games.roaming, kind="clipped", rounds=50)
sound("image_remembering_double", games.remembering)
sound("image_remembering_plain_adamw", games.remembering, kind="plain", optimizer=adamw(3e-3))
sound("image_corridor_gru", games.corridor)
sound("image_corridor_rnn", games.corridor, kind=nn.RNN, radius=1.0, optimizer=adam(3e-3))
sound("image_chain_values", games.chain)
