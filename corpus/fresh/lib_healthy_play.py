"""Healthy rows: reinforcement learning."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from corpus.fresh import sound
from corpus.recipes import adam, adamw
from corpus.trainings import fresh_lib_play as play

POLE = dict(needs="gymnasium")
sound("lib_ppo_pole", play.ppo, **POLE)
sound(
    "lib_ppo_pole_relu_wide",
    play.ppo,
    **POLE,
    act=nn.ReLU,
    width=96,
    optimizer=adam(2e-3),
    clip=None,
    follow=False,
    rounds=12,
)
sound("lib_dqn_pole_tutorial", play.dqn, **POLE)
sound(
    "lib_dqn_pole_fallen_minus_one",
    play.dqn,
    **POLE,
    widths=(48, 32),
    act=nn.Tanh,
    optimizer=adamw(4e-3),
    loss=F.mse_loss,
    earned=0.1,
    fallen=-1.0,
    clip=10.0,
)
