"""Faulty rows on images: step size, scale, the optimizer's memory, the last activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import broken
from corpus.recipes import Optimizer, adam, adamw, he, sgd
from corpus.trainings import image_blocks as blocks
from corpus.trainings import image_tasks as at
from corpus.trainings.image_blocks import tower
from corpus.trainings.optimizers import of
from corpus.trainings.surgery import put

HIGH = "exploding|oscillating|nonfinite"
LOW = "stalled"
WIDE = "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled"
PLAIN_EPOCHS = dict(
    model=tower(blocks.Plain, 2, 16),
    surgery=he,
    optimizer=sgd(0.02, momentum=0.9),
    batch=32,
    epochs=5,
)

# name of the healthy row, the change, and what differs in the twin as well
for twin, change, more in (
    ("image_cleaner_plain_7_absolute", dict(optimizer=adam(0.5)), {}),
    ("image_unmixing_velocity_pieces", dict(optimizer=adamw(1.0)), {}),
    ("image_roaming_critic", dict(optimizer=adam(1.0)), dict(clip=None)),
    ("image_styled_smooth_sgd", dict(optimizer=sgd(3000.0, momentum=0.9)), {}),
    ("image_seer_place", dict(optimizer=adamw(0.5)), {}),
    (
        "image_mixed_6",
        dict(schedule=lambda o: schedules.OneCycleLR(o, 10.0, total_steps=101)),
        {},
    ),
    ("image_epochs_cosine", dict(optimizer=sgd(3.0, momentum=0.9)), PLAIN_EPOCHS),
):
    broken(f"{twin}/rate_high", HIGH, "learning_rate_too_high", None, change, **more)

for twin, change, more in (
    ("image_enlarger", dict(optimizer=adam(1e-7)), {}),
    ("image_tuned_frozen_first", dict(again=adam(1e-7)), {}),
    (
        "image_epochs_cosine",
        dict(schedule=lambda o: schedules.LinearLR(o, 1e-6, 1.0, 10**6)),
        {},
    ),
    ("image_corridor_gru", dict(optimizer=adam(1e-7)), {}),
    ("image_canvas_sines", dict(optimizer=adam(1e-8)), {}),
    (
        "image_drawn",
        dict(optimizer=sgd(1e-6, momentum=0.9)),
        dict(optimizer=sgd(0.1, momentum=0.9)),
    ),
):
    broken(f"{twin}/rate_low", LOW, "learning_rate_too_low", None, change, **more)


# The number on which backward is called.
def summed(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over each pixel of each image."""
    return F.cross_entropy(out.flatten(0, 2), y.flatten(), reduction="sum")


def raw_merit(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Advantages in the unit of some points."""
    return lambda a: factor * a


SCALE = "loss_scale"
for name, pathology, change, more in (
    (
        "image_ladder_parts/summed_pixels",
        HIGH,
        dict(loss=summed),
        dict(optimizer=sgd(0.1, momentum=0.9)),
    ),
    ("image_drawn/summed", HIGH, dict(reduction="sum"), dict(optimizer=sgd(0.1, momentum=0.9))),
    (
        "image_styled_smooth_sgd/weight_1e6",
        HIGH,
        dict(weight=1e6),
        {},
    ),
    (
        "image_attacked/times_5000",
        HIGH,
        dict(factor=5000.0),
        dict(optimizer=sgd(0.02, momentum=0.9), rounds=1, steps=60),
    ),
    (
        "image_roaming_critic/points_in_thousands",
        HIGH,
        dict(worth=raw_merit(1e5)),
        dict(optimizer=sgd(0.2, momentum=0.9), clip=None),
    ),
    (
        "image_unmixing_noise/mean_of_means",
        LOW,
        dict(factor=1e-6),
        dict(optimizer=sgd(0.05, momentum=0.9)),
    ),
    ("image_taught/weight_1e_12", LOW, dict(factor=1e-12), {}),
):
    broken(name, pathology, SCALE, None, change, **more)

# The scale of the input.
INPUT = "input_scale"
for name, pathology, change, more in (
    (
        "image_epochs_cosine/never_divided",
        WIDE,
        dict(prepare=lambda x: 255 * x),
        dict(
            PLAIN_EPOCHS,
            task=partial(at.place, 8, 2, raw=True),
            prepare=lambda x: 2 * x - 1,
        ),
    ),
    (
        "image_epochs_cosine/divided_twice",
        "stalled|vanishing",
        dict(prepare=lambda x: x / 255**2),
        PLAIN_EPOCHS,
    ),
    (
        "image_enlarger/x_400",
        WIDE,
        dict(scale_input=lambda x: 400 * x),
        dict(optimizer=sgd(0.03, momentum=0.9)),
    ),
    (
        "image_temple_or_flower_logistic/x_1e_4",
        "stalled|vanishing",
        dict(scale_input=lambda x: 1e-4 * x),
        dict(optimizer=sgd(0.1)),
    ),
):
    broken(name, pathology, INPUT, None, change, **more)

# Gradients that are never zeroed.
for twin, more in (
    ("image_classic_relu_place", dict(optimizer=sgd(0.05, momentum=0.9))),
    ("image_ladder_parts", dict(optimizer=sgd(0.1))),
    ("image_unmixing_noise", {}),
    ("image_styled_smooth_sgd", {}),
    ("image_remembering_plain_adamw", {}),
    ("image_tuned_sgd", {}),
    ("image_epochs_small_batches", dict(optimizer=sgd(0.05, momentum=0.9))),
):
    broken(f"{twin}/never_zeroed", HIGH, "gradients_not_zeroed", None, dict(zero=False), **more)


# What the optimizer keeps.
def resumed(make: Optimizer, square: float) -> Optimizer:
    """Its state was loaded from a run whose gradients were far larger."""

    def build(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        motor = make(parameters)
        for group in motor.param_groups:
            for p in group["params"]:
                motor.state[p] = dict(
                    step=torch.tensor(5000.0),
                    exp_avg=torch.zeros_like(p),
                    exp_avg_sq=torch.full_like(p, square),
                )
        return motor

    return build


KEPT = ("optimizer_state", None)
for name, pathology, change, more in (
    ("image_cleaner_batchnorm/eps_ten", LOW, dict(optimizer=adam(3e-3, eps=10.0)), {}),
    ("image_tuned_frozen_first/stale_squares", LOW, dict(again=resumed(adam(3e-3), 1e6)), {}),
    (
        "image_unmixing_velocity_pieces/stale_squares",
        LOW,
        dict(optimizer=resumed(adamw(3e-3), 1e4)),
        {},
    ),
    (
        "image_ridges_frozen_bank/sum_begins_at_1e8",
        LOW,
        dict(optimizer=of("Adagrad", lr=0.1, initial_accumulator_value=1e8)),
        {},
    ),
    (
        "image_epochs_cosine/dampened_away",
        LOW,
        dict(optimizer=sgd(0.02, momentum=0.9, dampening=1.0)),
        dict(PLAIN_EPOCHS),
    ),
    (
        "image_inverted_squeezed/memory_without_end",
        HIGH,
        dict(optimizer=of("RMSprop", lr=3e-3, momentum=0.9, alpha=0.999999)),
        {},
    ),
    (
        "image_enlarger/momentum_without_friction",
        HIGH,
        dict(optimizer=sgd(0.03, momentum=0.9999)),
        dict(optimizer=sgd(0.03, momentum=0.9)),
    ),
):
    broken(name, pathology, *KEPT, change, **more)

# What stands between the last layer and the loss.
TWICE = ("saturated|stalled|vanishing", "output_activation_mismatch", ("out", None))
BOUNDED = ("saturated|stalled|vanishing|dead", "output_activation_mismatch", ("out", None))
NEGATIVE = ("dead|stalled|vanishing|saturated", "output_activation_mismatch", ("3", None))


def softmax() -> nn.Module:
    """Probabilities over the last dimension."""
    return nn.Softmax(dim=-1)


for name, words, change, more in (
    ("image_ladder_parts/softmax", TWICE, dict(surgery=put("out", softmax)), {}),
    (
        "image_branches/softmax",
        TWICE,
        dict(surgery=put("out", softmax)),
        dict(optimizer=sgd(0.05, momentum=0.9)),
    ),
    (
        "image_overlaid_digits/sigmoid",
        TWICE,
        dict(surgery=put("out", nn.Sigmoid)),
        dict(optimizer=sgd(0.1, momentum=0.9)),
    ),
    ("image_roaming/softmax", TWICE, dict(surgery=put("out", softmax)), {}),
    ("image_enlarger/relu", BOUNDED, dict(surgery=put("out", nn.ReLU)), {}),
    ("image_cleaner_batchnorm/sigmoid", BOUNDED, dict(surgery=put("out", nn.Sigmoid)), {}),
    ("image_remembering_double/relu", BOUNDED, dict(surgery=put("out", nn.ReLU)), dict(cost=0.3)),
    ("image_chain_values/relu", NEGATIVE, dict(out=nn.ReLU), {}),
):
    broken(name, *words, change, **more)
