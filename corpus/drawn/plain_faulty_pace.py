"""Faulty rows on vectors: step sizes, scales, what the optimizer keeps, the last activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import broken
from corpus.recipes import Surgery, adam, he, sgd
from corpus.trainings import plain_tasks as tables
from corpus.trainings.optimizers import of
from corpus.trainings.plain_nets import numbered

HIGH, LOW = "exploding|oscillating|nonfinite", "stalled"

# Steps that are too long.
for twin, change in {
    "continent_experts": dict(optimizer=adam(3.0)),
    "painting_waves": dict(optimizer=adam(0.5)),
    "density_tumours": dict(optimizer=adam(1.0)),
    "closure_life_batches": dict(optimizer=of("LBFGS", lr=40.0, max_iter=5, history_size=20)),
    "two_motors_sparse_vectors": dict(vectors=of("SparseAdam", lr=30.0)),
    "nations_life_one_cycle": dict(
        schedule=partial(schedules.OneCycleLR, max_lr=15.0, total_steps=201, pct_start=0.3)
    ),
    "epochs_hues_sgd_steps": dict(schedule=partial(schedules.StepLR, step_size=1, gamma=3.0)),
}.items():
    broken(f"{twin}/rate_high", HIGH, "learning_rate_too_high", None, change)

# Too short.
for twin, change in {
    "equation_swing": dict(optimizer=adam(1e-7)),
    "metric_digits_pairs": dict(optimizer=of("RMSprop", lr=1e-8)),
    "survival_words_cox": dict(optimizer=adam(1e-8)),
    "nations_life_pyramid": dict(  # meant for epochs, called at every batch
        schedule=partial(schedules.StepLR, step_size=2, gamma=0.1)
    ),
    "continent_large_rate_warmed": dict(  # a warm-up counted in samples
        schedule=partial(schedules.LinearLR, start_factor=1e-6, total_iters=2_000_000)
    ),
    "epochs_life_patience": dict(
        optimizer=adam(1e-6), schedule=partial(schedules.ExponentialLR, gamma=0.5)
    ),
}.items():
    broken(f"{twin}/rate_low", LOW, "learning_rate_too_low", None, change)


# The number on which backward is called.
def by_count(count: float, loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A mean that is divided by the number of samples once more, or twice."""
    return lambda out, y: loss(out, y) / count


SCALE = ("loss_scale", None)
broken("density_nations_sgd/summed", HIGH, *SCALE, dict(reduce=torch.sum))
broken("trajectory_euler_relu_clipped/summed", HIGH, *SCALE, dict(sum_loss=True), clip=None)
broken(
    "heads_three_answers/one_counts_1e4",
    HIGH,
    *SCALE,
    dict(weights=(1.0, 1.0, 1e4)),
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "breast_growing_columns/summed",
    HIGH,
    *SCALE,
    dict(loss=partial(F.binary_cross_entropy_with_logits, reduction="sum")),
)
broken(
    "continent_wide_momentum/divided_twice",
    LOW,
    *SCALE,
    dict(loss=by_count(1704.0**2, F.cross_entropy)),
)
broken("metric_hues_centres/scaled_1e_7", LOW, *SCALE, dict(scale_loss=1e-7))
broken(
    "imagined_tumours/scaled_1e_8",
    LOW,
    *SCALE,
    dict(scale_loss=1e-8),
    optimizer=sgd(0.2, momentum=0.9),
)


# The scale of the input.
def column(place: int, factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """One column in seconds, grams or cents."""

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, place] *= factor
        return x

    return change


WIDE = "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled"
NARROW = "stalled|vanishing"
INPUT = ("input_scale", None)
broken(
    "nations_life_pyramid/raw_people_and_dollars",
    WIDE,
    *INPUT,
    dict(task=partial(tables.life, raw=True)),
    optimizer=sgd(0.02),
)
broken(
    "hues_relu_no_bias/raw_bytes",
    WIDE,
    *INPUT,
    dict(task=partial(tables.hues, raw=True)),
    init=he,
    optimizer=sgd(0.05, momentum=0.9),
)
broken("continent_wide_momentum/seconds", WIDE, *INPUT, dict(scale_input=column(0, 1e6)))
broken("trajectory_runge/x_1000", WIDE, *INPUT, dict(scale_input=lambda x: x * 1000))
broken(
    "equation_swing/places_x_2000",
    f"{WIDE}|shattered",
    *INPUT,
    dict(unit=2000.0),
)
broken(
    "layer_by_layer_names/x_1e_6",
    NARROW,
    *INPUT,
    dict(scale_input=lambda x: x * 1e-6),
    optimizer=sgd(0.2, momentum=0.9),
)
broken(
    "epochs_hues_sgd_steps/divided_twice",
    NARROW,
    *INPUT,
    dict(scale_input=lambda x: x / 255**2),
)

# Gradients that are never, or too seldom, zeroed.
STALE = ("gradients_not_zeroed", None)
for twin, change, more in (
    ("two_motors_sparse_vectors", dict(forget="rest"), {}),
    ("epochs_hues_sgd_steps", dict(zero="never"), {}),
    ("continent_wide_momentum", dict(zero=False), {}),
    ("names_bag_winners", dict(zero=False), dict(optimizer=sgd(0.5))),
    ("nations_tokens_noisy_targets", dict(zero=False), dict(optimizer=adam(1e-2))),
):
    broken(f"{twin}/never_zeroed", HIGH, *STALE, change, **more)
broken(
    "epochs_continent_deep_tanh/zeroed_once_an_epoch",
    HIGH,
    *STALE,
    dict(zero="epoch"),
    optimizer=sgd(0.05),
    batch=16,
)


# What the optimizer keeps.
def resumed(lr: float, memory: float) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
    """Adam that goes on with the state of a run whose gradients were far larger."""

    def make(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        motor = torch.optim.Adam(parameters, lr=lr)
        for group in motor.param_groups:
            for p in group["params"]:
                motor.state[p] = {
                    "step": torch.tensor(5000.0),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.full_like(p, memory),
                }
        return motor

    return make


KEPT = ("optimizer_state", None)
broken(
    "names_tokens_mean_adagrad/accumulator_full",
    LOW,
    *KEPT,
    dict(optimizer=of("Adagrad", lr=5e-2, initial_accumulator_value=1e7)),
)
broken("vae_tumours/resumed", LOW, *KEPT, dict(optimizer=resumed(2e-3, 1e4)))
broken("metric_names_proxies/resumed", LOW, *KEPT, dict(optimizer=resumed(3e-3, 1e5)))
broken("imagined_tumours/eps_ten", LOW, *KEPT, dict(optimizer=adam(3e-3, eps=10.0)))
broken(
    "epochs_continent_deep_tanh/eps_hundred",
    LOW,
    *KEPT,
    dict(optimizer=of("RAdam", lr=3e-3, eps=100.0)),
)
broken(
    "digits_sets_of_halves/delta_from_nothing",
    LOW,
    *KEPT,
    dict(optimizer=of("Adadelta", lr=1.0, eps=1e-22)),
    optimizer=of("Adadelta", lr=1.0),
)
broken(
    "continent_batchnorm_plain_6/memory_without_end",  # and nothing corrects its start
    HIGH,
    *KEPT,
    dict(optimizer=of("RMSprop", lr=1e-3, momentum=0.9, alpha=1 - 1e-9)),
)


# What stands behind the last layer.
def ending(make: Callable[[], nn.Module]) -> Surgery:
    """One more module at the end of an nn.Sequential."""

    def change(model: nn.Module) -> None:
        assert isinstance(model, nn.Sequential)
        model.append(make())

    return change


def at_last(make: Callable[[], nn.Module]) -> Surgery:
    """The module `last` of an autoencoder."""
    return lambda model: setattr(model, "last", make())


MISMATCH = "output_activation_mismatch"
BOUND = "saturated|stalled|vanishing|dead"
broken(
    "survival_words_cox/softmax_of_one",
    BOUND,
    MISMATCH,
    ("5", None),
    dict(final=partial(nn.Softmax, dim=1)),
)
broken(
    "nations_life_one_cycle/sigmoid",
    BOUND,
    MISMATCH,
    ("out", "Numbered", None),
    dict(model=numbered(64, 64, act=F.mish, final=torch.sigmoid)),
)
broken(
    "vae_histories_wide_code/relu", BOUND, MISMATCH, ("last", None), dict(surgery=at_last(nn.ReLU))
)
broken("equation_swing/softplus", BOUND, MISMATCH, ("5", None), dict(surgery=ending(nn.Softplus)))
broken(
    "names_bag_heavy_dropout/softmax_over_the_batch",
    BOUND,
    MISMATCH,
    ("7", None),
    dict(surgery=ending(partial(nn.Softmax, dim=0))),
)
broken(
    "closure_hues_splines/sigmoid",
    BOUND,
    MISMATCH,
    ("2", None),
    dict(surgery=ending(nn.Sigmoid)),
)
broken(
    "nations_wealth_tweedie/tanh",  # a log mean that may not pass e
    BOUND,
    MISMATCH,
    ("5", None),
    dict(surgery=ending(nn.Tanh)),
)
