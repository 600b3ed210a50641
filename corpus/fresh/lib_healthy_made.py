"""Healthy rows: control by hand, and models that make data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corpus.fresh import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import fresh_lib_control as control
from corpus.trainings import fresh_lib_made as made
from corpus.trainings.optimizers import of

sound("lib_ddpg_cart", control.ddpg)
sound("lib_actor_critic_cart_normal", control.gaussian_critic)
sound(
    "lib_actor_critic_cart_log_std",
    control.gaussian_critic,
    act=nn.ReLU,
    width=64,
    spread=lambda s: s.clamp(-3, 1).exp(),
    optimizer=of("RMSprop", lr=3e-3, alpha=0.99, eps=1e-5),
    clip=0.5,
)

sound("lib_vae_digits_summed", made.vae)
sound(
    "lib_vae_digits_deep_elu_each",
    made.vae,
    act=nn.ELU,
    depth=4,
    width=64,
    each=True,
    clip=5.0,
    beta=0.2,
    optimizer=adamw(2e-3),
)
sound("lib_ddpm_moons", made.denoising)
sound(
    "lib_ddpm_digits_huber",
    made.denoising,
    data="digits",
    width=128,
    depth=2,
    act=nn.GELU,
    loss=F.smooth_l1_loss,
    optimizer=adamw(2e-3, weight_decay=1e-4),
    batch=64,
    clip=None,
)
sound(
    "lib_ddpm_rings_half",  # weights and all in float16, with an eps that it can hold
    made.denoising,
    data="rings",
    depth=2,
    dtype=torch.float16,
    optimizer=adam(2e-3, eps=1e-4),
    clip=None,
)
sound(
    "lib_flow_matching_rings_plain",
    made.denoising,
    kind="velocity",
    data="rings",
    skip=False,
    depth=3,
    act=nn.ELU,
    optimizer=adam(2e-3),
)
sound(
    "lib_flow_matching_roll_sgd",
    made.denoising,
    kind="velocity",
    data="roll",
    act=nn.Tanh,
    depth=2,
    optimizer=sgd(0.1, momentum=0.9),
)
sound("lib_dcgan_digits", made.dcgan)
sound(
    "lib_dcgan_logits_squares",
    made.dcgan,
    sigmoid=nn.Identity,
    loss=F.mse_loss,
    smooth=1.0,
    width=16,
    maker=adam(3e-3, betas=(0.5, 0.9)),
    judge=adam(1e-3, betas=(0.5, 0.9)),
)
