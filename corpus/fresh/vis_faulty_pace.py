"""Faulty rows on vectors and images: step size, scale, the optimizer's use, the last activation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import broken
from corpus.recipes import Optimizer, adam, adamw, sgd
from corpus.trainings import fresh_vis_nets as nets
from corpus.trainings import image_tasks as at
from corpus.trainings import tasks
from corpus.trainings.fresh_vis_nets import perceptron
from corpus.trainings.optimizers import of

HIGH, LOW = "exploding|oscillating|nonfinite", "stalled"
HIGHER = f"{HIGH}|dead|spike"  # where ReLU units die of the first steps

# Steps that are too long.
for name, pathology, change, more in (
    ("vis_friedman_gelu/rate_one", HIGHER, dict(optimizer=adamw(2.0)), {}),
    ("vis_boxes_smooth_l1/rate_three", HIGHER, dict(optimizer=sgd(3.0, momentum=0.9)),
     dict(optimizer=sgd(0.1, momentum=0.9))),
    ("vis_frozen_trunk_turned/all_of_it_at_once", HIGHER, dict(optimizer=adam(0.5)),
     dict(freeze=lambda net, head: None)),
    (
        "vis_cyclic_rate/bounds_x1000",
        HIGH,
        dict(schedule=lambda o: schedules.CyclicLR(o, 1.0, 50.0, step_size_up=40)),
        {},
    ),
):  # fmt: skip
    broken(name, pathology, "learning_rate_too_high", None, change, **more)

# Too short.
for name, change, more in (
    (
        "vis_vgg_bn_digits_step_lr/stepped_each_batch",
        dict(by_batch=partial(schedules.StepLR, step_size=1, gamma=0.3), by_epoch=None),
        dict(epochs=3),
    ),
    (
        "vis_plateau_patience/lambda_gives_the_rate",  # which is multiplied by the rate
        dict(by_epoch=lambda o: schedules.LambdaLR(o, lambda e: 2e-5 * 0.95**e)),
        dict(by_epoch=lambda o: schedules.LambdaLR(o, lambda e: 0.95**e)),
    ),
    (
        "vis_large_batch_warmed/warm_up_of_a_large_run",
        dict(schedule=lambda o: schedules.LinearLR(o, 1e-5, 1.0, 500_000)),
        {},
    ),
    ("vis_experts_spirals/rate_1e_7", dict(optimizer=adam(1e-7)), {}),
):
    broken(name, LOW, "learning_rate_too_low", None, change, **more)


# The number on which backward is called.
def times(factor: float, loss: tasks.Loss) -> tasks.Loss:
    """A loss with a weight."""
    return lambda out, y: factor * loss(out, y)


SCALE = "loss_scale"
for name, pathology, cause, change, more in (
    (
        "vis_vae_beta_warmed_sgd/not_divided",
        f"{HIGHER}|saturated",
        f"{SCALE}|learning_rate_too_high",
        dict(share=1.0),
        dict(clip=None),
    ),
    (
        "vis_segnet_sgd/summed_pixels",
        HIGHER,
        f"{SCALE}|learning_rate_too_high",
        dict(loss=partial(F.binary_cross_entropy_with_logits, reduction="sum")),
        dict(model=nets.unet(8, norm=False), optimizer=sgd(0.1, momentum=0.9)),
    ),
    ("vis_three_heads_by_hand/box_x1e5", HIGHER, SCALE, dict(weights=(1.0, 1e5, 1.0)), {}),
    (
        "vis_distilled_vgg_to_mlp/weight_1e_6",
        "stalled|vanishing",
        f"{SCALE}|learning_rate_too_low",
        dict(factor=1e-6),
        dict(optimizer=sgd(0.1, momentum=0.9)),
    ),
):
    broken(name, pathology, cause, None, change, **more)


# The scale of the input.
WIDE = "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled|collapsed"
INPUT = ("input_scale", None)
for name, pathology, change, more in (
    (
        "vis_plateau_patience/bytes",
        WIDE,
        dict(prepare=lambda x: 128 + 64 * x),
        dict(optimizer=sgd(0.05, momentum=0.9), batch=32),
    ),
    (
        "vis_wine_cross_entropy_sgd/raw_units",
        WIDE,
        dict(task=partial(tasks.table, "wine", raw=True)),
        {},
    ),
    (
        "vis_spirals_elu_nadam/millimetres_as_kilometres",
        "stalled|vanishing|collapsed",
        dict(scale_input=lambda x: 1e-6 * x),
        dict(optimizer=sgd(0.1, momentum=0.9), steps=400),
    ),
    (
        "vis_siamese/divided_twice",
        "stalled|vanishing|collapsed",
        dict(prepare=lambda x: x / 255**2),
        dict(optimizer=sgd(0.05, momentum=0.9)),
    ),
):
    broken(name, pathology, *INPUT, change, **more)

# Gradients that are never zeroed.
STALE = ("gradients_not_zeroed", None)
for name, change, more in (
    ("vis_distilled_vgg_to_mlp/never_zeroed", dict(zero=False), dict(optimizer=sgd(0.2))),
    ("vis_three_heads_by_hand/never_zeroed", dict(zero=False), {}),
    ("vis_experts_spirals/never_zeroed", dict(zero=False), dict(optimizer=sgd(0.5, momentum=0.9))),
):
    broken(name, HIGH, *STALE, change, **more)


# What the optimizer keeps.
def resumed(lr: float, square: float) -> Optimizer:
    """AMSGrad whose checkpoint remembers one enormous gradient."""

    def build(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        motor = torch.optim.Adam(parameters, lr=lr, amsgrad=True)
        for p in motor.param_groups[0]["params"]:
            motor.state[p] = dict(
                step=torch.tensor(900.0),
                exp_avg=torch.zeros_like(p),
                exp_avg_sq=torch.zeros_like(p),
                max_exp_avg_sq=torch.full_like(p, square),
            )
        return motor

    return build


for name, pathology, cause, change, more in (
    ("vis_prototypes/worst_of_an_old_run", LOW, "optimizer_state",
     dict(optimizer=resumed(2e-3, 1e6)), {}),
    ("vis_mobilenet_rmsprop/eps_1000", LOW, "optimizer_state",
     dict(optimizer=of("RMSprop", lr=2e-3, alpha=0.9, momentum=0.9, eps=1e3)), {}),
    ("vis_boxes_smooth_l1/momentum_one", HIGHER, "optimizer_state",
     dict(optimizer=sgd(0.1, momentum=1.0)), dict(optimizer=sgd(0.1, momentum=0.9))),
    ("vis_spirals_elu_nadam/betas_swapped", f"{HIGH}|stalled|spike", "optimizer_state",
     dict(optimizer=adam(5e-3, betas=(0.999, 0.9))), {}),
):  # fmt: skip
    broken(name, pathology, cause, None, change, **more)

# What stands between the last layer and the loss.
BOUND = ("saturated|stalled|vanishing|dead", "output_activation_mismatch")


def softmax() -> nn.Module:
    """Probabilities where scores were wanted."""
    return nn.Softmax(dim=1)


def likelihood(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """NLLLoss on logs of shares, as it should be."""
    return F.nll_loss(out.log_softmax(1), y)


for name, words, layers, change, more in (
    (
        "vis_lenet_tanh_epochs/softmax",
        BOUND,
        ("12", None),
        dict(surgery=lambda net: net.append(softmax())),
        dict(task=partial(tasks.digits, (1, 8, 8), "error"), optimizer=sgd(0.05), epochs=10),
    ),
    (
        "vis_resnet_10_photos_cosine/nll_of_scores",
        ("exploding|oscillating|nonfinite", "output_activation_mismatch"),
        ("fc", None),
        dict(criterion=F.nll_loss),
        dict(criterion=likelihood, task=partial(at.place, 8, 2)),
    ),
    (
        "vis_friedman_gelu/relu_at_the_end",
        BOUND,
        ("6", None),
        dict(model=perceptron(48, 48, act=nn.GELU, end=nn.ReLU)),
        {},
    ),
    (
        "vis_wave_deciles/softmax_at_the_end",
        BOUND,
        ("6", None),
        dict(model=perceptron(40, 40, act=nn.SiLU, end=softmax)),
        {},
    ),
):
    broken(name, *words, layers, change, **more)
