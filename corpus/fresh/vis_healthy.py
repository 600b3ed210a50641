"""Healthy rows on vectors and images: networks of tutorials, each with its usual optimizer."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import sound
from corpus.recipes import adam, adamw, he, sgd, xavier
from corpus.trainings import fresh_vis_nets as nets
from corpus.trainings import fresh_vis_tasks as made
from corpus.trainings import image_tasks as at
from corpus.trainings import plain_tasks as tables
from corpus.trainings import tasks
from corpus.trainings.fresh_vis_loops import tutorial
from corpus.trainings.losses import noisy_labels
from corpus.trainings.optimizers import of
from corpus.trainings.plain_losses import asked, quantiles, seen

DIGITS = partial(tasks.digits, (1, 8, 8))

# Image classification.
sound(
    "vis_lenet_tanh_epochs",
    tutorial,
    task=DIGITS,
    model=nets.lenet(),
    optimizer=sgd(0.05, momentum=0.9),
    epochs=8,
    init=xavier,
)
sound(
    "vis_vgg_shapes",
    tutorial,
    task=made.shapes,
    model=nets.vgg(12, "M", 16, 16, "M", 24, drop=0.2),
    optimizer=adam(3e-3),
    epochs=12,
)
sound(
    "vis_vgg_bn_digits_step_lr",
    tutorial,
    task=DIGITS,
    model=nets.vgg(12, 12, "M", 24, 24, norm=True),
    optimizer=sgd(0.02, momentum=0.9, weight_decay=5e-4),
    by_epoch=partial(schedules.StepLR, step_size=3, gamma=0.3),
    epochs=6,
)
sound(
    "vis_resnet_10_photos_cosine",
    tutorial,
    task=partial(at.place, 8, 2),
    model=nets.resnet(2, 2, width=8),
    optimizer=sgd(0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    by_epoch=partial(schedules.CosineAnnealingLR, T_max=5),
    epochs=5,
)
sound(
    "vis_mobilenet_rmsprop",
    tutorial,
    task=DIGITS,
    model=nets.mobilenet(),
    optimizer=of("RMSprop", lr=2e-3, alpha=0.9, momentum=0.9, eps=1e-3),
    by_epoch=partial(schedules.ExponentialLR, gamma=0.9),
    epochs=5,
)
sound(
    "vis_densenet_nesterov",
    tutorial,
    task=DIGITS,
    model=nets.densenet(),
    optimizer=sgd(0.05, momentum=0.9, nesterov=True),
    epochs=5,
)
sound(
    "vis_squeezenet_no_linear",
    tutorial,
    task=DIGITS,
    model=nets.squeezenet(),
    optimizer=adamw(5e-3, weight_decay=0.05),
    epochs=9,
)
sound(
    "vis_mlp_digits_dropout",
    tutorial,
    task=DIGITS,
    model=nets.perceptron(96, 48, drop=0.3),
    optimizer=adam(2e-3),
    epochs=10,
)
sound(
    "vis_deep_he_mlp_sgd",
    task=DIGITS,
    model=nets.stack(5, 48, sigma=2.0),
    optimizer=sgd(0.03, momentum=0.9),
    steps=150,
)
sound(
    "vis_resnet_22_digits",
    task=DIGITS,
    model=nets.resnet(10, width=8),
    optimizer=adam(3e-3),
    batch=24,
    steps=70,
)
sound(
    "vis_stack_skip_bn_40",
    task=DIGITS,
    model=nets.stack(40, 40, norm=True, skip=True),
    optimizer=adam(1e-3),
    batch=48,
    steps=80,
)
sound(
    "vis_label_noise_third",
    task=DIGITS,
    model=nets.vgg(12, "M", 24, drop=0.0),
    optimizer=adam(2e-3),
    poison=noisy_labels(0.3),
    steps=200,
)

# Segmentation and boxes.
sound(
    "vis_unet_outlines",
    task=made.outlines,
    model=nets.unet(),
    optimizer=adam(3e-3),
    batch=12,
    steps=80,
)
sound(
    "vis_unet_no_norm_dice",
    task=partial(made.outlines, loss=lambda out, y: 1 - dice(out.sigmoid(), y)),
    model=nets.unet(norm=False),
    optimizer=adam(2e-3),
    batch=16,
    steps=100,
)
sound(
    "vis_segnet_sgd",
    task=made.outlines,
    model=nets.unet(8, join=False),
    optimizer=sgd(0.1, momentum=0.9),
    batch=12,
    steps=100,
)
sound(
    "vis_boxes_smooth_l1",
    task=partial(made.boxes, loss=F.smooth_l1_loss),
    model=nets.vgg(12, "M", 24, "M", 24, drop=0.0),
    optimizer=adam(2e-3),
    steps=150,
)


def dice(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Twice the common part over the sum, image by image."""
    both, total = (p * y).sum((1, 2, 3)), (p + y).sum((1, 2, 3))
    return ((2 * both + 1) / (total + 1)).mean()


# Tables and curves.
sound(
    "vis_breast_bce_epochs",
    tutorial,
    task=tasks.tumours,
    model=nets.perceptron(24, 12),
    optimizer=adam(5e-3),
    batch=32,
    epochs=8,
)
sound(
    "vis_wine_cross_entropy_sgd",
    tutorial,
    task=partial(tasks.table, "wine"),
    model=nets.perceptron(20, 20),
    optimizer=sgd(0.05, momentum=0.9),
    batch=16,
    epochs=15,
)
sound(
    "vis_iris_full_batch_adam",
    task=partial(tasks.table, "iris"),
    model=nets.perceptron(10, act=nn.Tanh),
    batch=None,
    optimizer=adam(1e-2),
    steps=200,
)
sound(
    "vis_friedman_gelu",
    task=made.friedman,
    model=nets.perceptron(48, 48, act=nn.GELU),
    optimizer=adamw(3e-3),
    steps=200,
)
sound(
    "vis_friedman_bn_sgd",
    tutorial,
    task=made.friedman,
    model=nets.perceptron(40, 40, 40, norm=True),
    optimizer=sgd(0.05, momentum=0.9),
    epochs=10,
)
sound(
    "vis_spirals_elu_nadam",
    task=made.spirals,
    model=nets.perceptron(48, 48, act=nn.ELU),
    optimizer=of("NAdam", lr=5e-3),
    steps=250,
)
sound(
    "vis_spirals_seven_tanh",
    task=made.spirals,
    model=nets.stack(6, 32, nn.Tanh, sigma=1.0),
    init=xavier,
    optimizer=adam(2e-3),
    steps=200,
)
sound(
    "vis_wave_deciles",
    task=asked(partial(made.wave, loss=quantiles), 9),
    model=nets.perceptron(40, 40, act=nn.SiLU),
    judge=seen(lambda out: out[:, 4:5]),
    optimizer=adam(5e-3),
    steps=250,
)
sound(
    "vis_properties_many_labels",
    task=made.properties,
    model=nets.vgg(12, "M", 24, drop=0.1),
    optimizer=of("Adamax", lr=1e-2),
    steps=150,
)
sound(
    "vis_grades_stairs",
    task=made.grades,
    model=nets.perceptron(32, act=nn.LeakyReLU),
    optimizer=of("RAdam", lr=5e-3),
    steps=200,
)
sound(
    "vis_life_adadelta",
    task=tables.life,
    model=nets.perceptron(64, 32),
    optimizer=of("Adadelta", lr=1.0),
    steps=250,
)
sound(
    "vis_hues_he_sgd",
    task=partial(tables.hues, metric="error"),
    model=nets.perceptron(64, 64),
    init=he,
    optimizer=sgd(0.1, momentum=0.9),
    steps=250,
)
