"""Healthy rows with loops of their own: codes, pairs, heads, experts, precision; and odd ones."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import fresh_vis_made as makers
from corpus.trainings import fresh_vis_mixed as mixed
from corpus.trainings import fresh_vis_nets as nets
from corpus.trainings import fresh_vis_pairs as pairs
from corpus.trainings import fresh_vis_tasks as made
from corpus.trainings import image_tasks as at
from corpus.trainings import plain_tasks as tables
from corpus.trainings import tasks
from corpus.trainings.fresh_vis_loops import all_but_head, distilled, transferred, tutorial
from corpus.trainings.optimizers import of, trainable

DIGITS = partial(tasks.digits, (1, 8, 8))

sound("vis_dcgan", makers.dcgan)
sound("vis_vae_conv", makers.vae, beta=lambda step: 0.2)
sound(
    "vis_vae_beta_warmed_sgd",
    makers.vae,
    lost=partial(F.mse_loss, reduction="sum"),
    beta=lambda step: 0.02 * min(1.0, step / 100),
    optimizer=sgd(5e-2, momentum=0.9),
    clip=5.0,
    steps=250,
)
sound("vis_vqvae", makers.vqvae)
sound("vis_siamese", pairs.siamese)
sound("vis_simclr", pairs.simclr)
sound("vis_prototypes", pairs.prototypes)
sound("vis_three_heads_uncertain", pairs.three_heads)
sound(
    "vis_three_heads_by_hand",
    pairs.three_heads,
    weights=(1.0, 1.0, 1.0),
    optimizer=sgd(0.05, momentum=0.9),
)
sound("vis_cox_dropout", pairs.cox, model=nets.perceptron(32, 32, act=nn.SELU, drop=0.1))
sound("vis_experts_spirals", mixed.experts, task=made.spirals)
sound("vis_domains_reversed", mixed.domains)
sound(
    "vis_amp_half_accumulated",
    mixed.precise,
    task=DIGITS,
    model=nets.vgg(12, "M", 24, drop=0.0),
)
sound(
    "vis_amp_bfloat16",
    mixed.precise,
    task=made.shapes,
    model=nets.resnet(1, 1, width=8),
    dtype=torch.bfloat16,
    scale=None,
    steps=80,
)
sound(
    "vis_frozen_trunk_turned",
    transferred,
    task=at.turned_digits,
    model=nets.vgg(12, "M", 24, drop=0.0),
    head="classifier.3",
    freeze=lambda net, head: net.features.requires_grad_(False),
    steps=120,
)
sound(
    "vis_linear_probe_properties",
    transferred,
    task=made.properties,
    model=nets.perceptron(96, 64, act=nn.GELU),
    head="5",
    freeze=all_but_head,
    optimizer=adam(1e-2),
)
sound(
    "vis_distilled_vgg_to_mlp",
    distilled,
    task=DIGITS,
    teacher=nets.vgg(16, "M", 24, drop=0.1),
    student=nets.perceptron(24),
)

# Unusual and sound.
sound(
    "vis_raw_pixels_normed_first",  # 0 to 16, as they are
    task=partial(tasks.digits, (64,)),
    scale_input=lambda x: 6.0 * x + 4.9,
    model=lambda t: nn.Sequential(
        nn.BatchNorm1d(64), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)
    ),
    optimizer=adam(3e-3),
    steps=150,
)
sound(
    "vis_rare_tumour_weighted",
    task=made.rare_tumour,
    model=nets.perceptron(16),
    optimizer=adamw(3e-3, weight_decay=0.1),
    steps=200,
)
sound(
    "vis_large_batch_warmed",
    task=DIGITS,
    model=nets.perceptron(64, 64),
    batch=512,
    optimizer=sgd(0.4, momentum=0.9),
    schedule=lambda o: schedules.LinearLR(o, 0.05, 1.0, 20),
    steps=80,
)
sound(
    "vis_plateau_patience",
    tutorial,
    task=made.boxes,
    model=nets.vgg(8, "M", 16, "M", drop=0.0),
    optimizer=adam(3e-3),
    by_epoch=partial(schedules.ReduceLROnPlateau, patience=1, factor=0.3),
    epochs=9,
)
sound(
    "vis_warm_restarts",
    tutorial,
    task=made.shapes,
    model=nets.vgg(12, "M", 24, "M", norm=True, drop=0.1),
    optimizer=sgd(0.05, momentum=0.9),
    by_batch=partial(schedules.CosineAnnealingWarmRestarts, T_0=26, T_mult=2),
    epochs=6,
)
sound(
    "vis_cyclic_rate",
    task=made.friedman,
    model=nets.perceptron(32, 32, act=nn.Softplus),
    optimizer=sgd(0.01, momentum=0.9),
    schedule=lambda o: schedules.CyclicLR(o, 1e-3, 5e-2, step_size_up=40),
    steps=240,
)
sound(
    "vis_weights_averaged",
    task=partial(tables.hues, metric="error"),
    model=nets.perceptron(48, 48),
    optimizer=of("ASGD", lr=0.2),
    steps=300,
)
sound(
    "vis_huber_outlying_answers",  # every fiftieth answer is wrong by far
    task=lambda: spoilt(made.friedman(loss=F.huber_loss)),
    model=nets.perceptron(48, 48),
    optimizer=adam(3e-3),
    steps=250,
)
sound(
    "vis_clip_by_value_rprop",
    task=made.wave,
    model=nets.perceptron(32, 32, act=nn.Tanh),
    batch=None,
    optimizer=of("Rprop", lr=1e-3),
    clip=partial(torch.nn.utils.clip_grad_value_, clip_value=0.5),
    steps=150,
)
sound(
    "vis_slow_start_small_rate",  # an early phase: still falling at the end
    task=DIGITS,
    model=nets.perceptron(64),
    optimizer=sgd(0.02),
    steps=180,
)
sound(
    "vis_batch_of_two",
    task=DIGITS,
    model=nets.vgg(12, "M", 16, drop=0.1),
    batch=2,
    optimizer=adam(1e-3),
    steps=400,
)
sound(
    "vis_heavy_dropout_wide",
    task=DIGITS,
    model=nets.perceptron(256, drop=0.7),
    optimizer=adam(1e-3),
    steps=200,
)
sound(
    "vis_first_layers_frozen_random",
    task=DIGITS,
    model=nets.vgg(24, "M", 32, drop=0.0),
    surgery=lambda net: net.features.requires_grad_(False),
    groups=trainable,
    optimizer=adam(3e-3),
    steps=150,
)


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder turned round."""

    def __init__(self, task: tasks.Task) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(24, task.out))
        self.inner, self.outer = nn.Parameter(torch.zeros(24)), nn.Parameter(torch.zeros(task.out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(F.linear(x, self.weight, self.inner))
        return F.linear(h, self.weight.T, self.outer)


sound("vis_tied_autoencoder", task=tasks.repaint, model=Tied, optimizer=adam(5e-3), steps=200)
sound(
    "vis_wide_code_two_groups",
    task=partial(tasks.repaint, noise=0.3),
    model=nets.perceptron(96, act=nn.ReLU),
    optimizer=adam(3e-3),
    steps=200,
    groups=lambda m: [
        {"params": m[1].parameters(), "weight_decay": 1e-4},
        {"params": m[3].parameters()},
    ],
)


def spoilt(task: tasks.Task) -> tasks.Task:
    """Some answers in the wrong unit, but not the first hundred."""
    y = task.y.clone()
    y[600::10] += 20.0
    return tasks.Task(task.x, y, task.loss, task.out, task.metric)
