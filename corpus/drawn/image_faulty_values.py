"""Faulty rows on images: bad batches, numbers that are none, ranges that are left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.drawn import broken
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import image_games as games
from corpus.trainings import image_nets as nets
from corpus.trainings import image_tasks as at
from corpus.trainings.image_loops import gram
from corpus.trainings.surgery import put
from corpus.trainings.tasks import Loss

INF, NO = float("inf"), float("nan")


def once(step: int, change: Callable[[torch.Tensor], torch.Tensor], answer: bool = False) -> Poison:
    """Change the images of one step, or their answers."""

    def poison(now: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
        if now != step:
            return x, y
        return (x, change(y)) if answer else (change(x), y)

    return poison


def rewarded(step: int, value: float) -> games.Change:
    """One round in which the first walker is paid something else."""

    def change(now: int, gain: torch.Tensor) -> torch.Tensor:
        gain = gain.clone()
        if now == step:
            gain[0] = value
        return gain

    return change


def row_of(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A defect sensor: one row of one image has the same value."""

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[3, 0, 1] = value
        return x

    return change


# One batch that is not like the others.
for name, change, more in (
    (
        "image_drawn/batch_x1000",
        dict(poison=once(110, lambda x: 1000 * x)),
        dict(optimizer=sgd(0.1, momentum=0.9)),
    ),
    (
        "image_ink_moments/answers_in_pixels",
        dict(poison=once(200, lambda y: 1e5 * y, True)),
        dict(loss=F.mse_loss, optimizer=sgd(0.01, momentum=0.9)),
    ),
    (
        "image_unmixing_velocity_pieces/batch_x1e4",
        dict(poison=once(120, lambda x: 1e4 * x)),
        dict(optimizer=sgd(0.05, momentum=0.9)),
    ),
    (
        "image_roaming_critic/reward_of_a_million",
        dict(reward=rewarded(60, 1e6)),
        dict(clip=None, optimizer=sgd(0.2, momentum=0.9)),
    ),
    ("image_painters_logistic_steep/batch_x1e4", dict(poison=once(100, lambda x: 1e4 * x)), {}),
):
    broken(name, "spike|exploding|nonfinite|dead", "bad_batch", None, change, **more)


def each_by_itself(x: torch.Tensor) -> torch.Tensor:
    """Light pixels, standardised for each image by itself; an even one has no spread."""
    light = (x > 0.3).float()
    return (light - light.mean((1, 2, 3), keepdim=True)) / light.std((1, 2, 3), keepdim=True)


def decibels(x: torch.Tensor) -> torch.Tensor:
    """The logarithm of brightness, of which black has none."""
    return torch.where(x < 0.02, torch.zeros_like(x), x).log()


# Values that are no numbers.
RAW = dict(task=partial(at.place, 8, 2, raw=True), model=nets.classic(nn.ReLU))
for name, change, more in (
    (
        "image_epochs_cosine/even_images",
        dict(prepare=each_by_itself),
        dict(task=partial(at.picture, 8), model=RAW["model"]),
    ),
    ("image_epochs_small_batches/black_in_decibels", dict(prepare=decibels), RAW),
    ("image_drawn_below_zero/defect_row", dict(poison=once(90, row_of(NO))), {}),
    ("image_filled_gated/infinite_row", dict(poison=once(100, row_of(INF))), {}),
    ("image_ink_moments/answer_missing", dict(poison=once(150, lambda y: y * NO, True)), {}),
    ("image_chain_values/reward_missing", dict(reward=rewarded(150, NO)), {}),
    ("image_painters_relative_groups/defect_row", dict(poison=once(60, row_of(NO))), {}),
):
    broken(name, "nonfinite", "nonfinite_input", None, change, **more)


# Numbers that outgrow their type, or vanish in it.
class Energy(nn.Module):
    """The share of each pixel in the sum of squares, all in half precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = (300 * x.half()).square()
        return (e / e.sum((2, 3), keepdim=True).clamp_min(1e-3)).float() * x.shape[-1] ** 2


class Heated(nn.Module):
    """A softmax over places by hand, without taking away the largest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = (100 * x).exp()
        return x + e / e.sum((2, 3), keepdim=True)


def half_gram(h: torch.Tensor) -> torch.Tensor:
    """In half precision, divided only after the sum."""
    flat = (16 * h).half().flatten(2)
    return (flat @ flat.transpose(1, 2)).float() / flat.shape[2] / 256


def light(loss: Loss, factor: float) -> Loss:
    """A loss of small weight."""
    return lambda out, y: factor * loss(out.float(), y)


OVER = "dtype_overflow"
for name, cause, layers, change, more in (
    (
        "image_resnet_before_place/half_energy",
        OVER,
        "extra",
        dict(surgery=put("extra", Energy)),
        {},
    ),
    (
        "image_cleaner_batchnorm/exp_by_hand",
        f"{OVER}|undefined_operation",
        "extra",
        dict(surgery=put("extra", Heated)),
        {},
    ),
    ("image_styled/half_gram", OVER, None, dict(common=half_gram), dict(common=gram)),
):
    broken(name, "nonfinite", cause, layers, change, **more)

SMALL = partial(torch.amp.GradScaler, "cpu", init_scale=2.0**-20, growth_interval=10**6)
FADED = "vanishing|stalled|dead"
TINY = adam(3e-3, eps=1e-20)
for name, pathology, cause, change, more in (
    (
        "image_classic_relu_place/half_without_scaler",
        FADED,
        "dtype_underflow",
        dict(mixed=torch.float16),
        dict(loss=light(F.cross_entropy, 1e-8), optimizer=TINY, steps=120),
    ),
    (
        "image_cleaner_batchnorm/half_without_scaler",
        FADED,
        "dtype_underflow",
        dict(mixed=torch.float16),
        dict(loss=light(F.mse_loss, 1e-8), optimizer=TINY, steps=60, batch=16),
    ),
    (
        "image_float16_scaler_cleaner/scale_too_small",
        FADED,
        "dtype_underflow|loss_scale",
        dict(scaler=SMALL),
        dict(optimizer=TINY),
    ),
):
    broken(name, pathology, cause, None, change, **more)
