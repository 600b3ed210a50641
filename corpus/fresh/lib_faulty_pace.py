"""Faulty rows of step size and scale, of the optimizer's use and of what it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.fresh import broken
from corpus.recipes import Optimizer, adam, adamw, sgd, untouched
from corpus.trainings import fresh_lib_tune as tune
from corpus.trainings import plain_tasks

HIGH = "exploding|oscillating|nonfinite|spike|saturated|dead|stalled"
RATE = ("learning_rate_too_high", None)

# Steps that are too long.
broken("lib_bert_names_warm_linear/rate_high", HIGH, *RATE, dict(optimizer=adamw(0.5)), warm=0)
broken("lib_ppo_pole/rate_high", f"{HIGH}|collapsed", *RATE, dict(optimizer=adam(1.0, eps=1e-5)))
broken("lib_maml_sines/inner_rate_high", HIGH, *RATE, dict(inner=20.0))
broken(
    "lib_encoder_code_sgd_steps/rate_without_clipping",
    HIGH,
    *RATE,
    dict(optimizer=sgd(40.0)),
    clip=None,
    optimizer=sgd(0.3),
)

# Too short.
LOW = ("stalled", "learning_rate_too_low", None)
broken("lib_vit_digits_cosine/rate_low", *LOW, dict(optimizer=adamw(3e-8)))
broken("lib_packed_lstm_names/rate_low", *LOW, dict(optimizer=adam(1e-7)))
broken("lib_gpt2_code_cosine/warm_for_ever", *LOW, dict(warm=2_000_000))
broken("lib_hubert_sweeps_layer_norm/plan_over_at_once", *LOW, dict(total=4, warm=2), warm=2)

# The number on which backward is called.
LARGE = (HIGH, "loss_scale|learning_rate_too_high", None)
SMALL = ("stalled|vanishing", "loss_scale|learning_rate_too_low", None)
broken(
    "lib_vae_digits_deep_elu_each/summed",
    *LARGE,
    dict(each=False),
    likeness=partial(F.mse_loss, reduction="sum"),
    optimizer=sgd(0.05, momentum=0.9),
    clip=None,
    depth=1,
)
broken("lib_regnet_digits_sgd/factor_1e_6", *SMALL, dict(factor=1e-6))
broken(
    "lib_flow_matching_roll_sgd/summed",
    *LARGE,
    dict(loss=partial(F.mse_loss, reduction="sum")),
    clip=None,
)
broken(
    "lib_pinn_membrane/boundary_counts_1e6",
    f"{HIGH}|vanishing",
    "loss_scale",
    None,
    dict(weights=(1.0, 1e6)),
)
broken(
    "lib_ppo_pole/value_counts_1e6",
    f"{HIGH}|vanishing",
    "loss_scale",
    None,
    dict(value_share=1e6),
)

# The scale of the input.
WIDE = "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled|spike|shattered"
INPUT = ("input_scale", None)
broken(
    "lib_ddpm_digits_huber/not_scaled_down", WIDE, *INPUT, dict(scale_input=lambda x: 300 * x + 400)
)
broken("lib_pinn_membrane/in_millimetres", WIDE, *INPUT, dict(unit=1000.0))
broken(
    "lib_two_speeds_life/people_and_dollars",
    WIDE,
    *INPUT,
    dict(task=partial(plain_tasks.life, raw=True)),
)

# Gradients that are never zeroed.
NEVER = (HIGH, "gradients_not_zeroed", None)
broken("lib_supcon_digits_sgd/never_zeroed", *NEVER, dict(zero=False), depth=3)
broken("lib_regnet_digits_sgd/never_zeroed", *NEVER, dict(zero=False))
broken("lib_nvp_moons/never_zeroed", *NEVER, dict(zero=False))
broken(
    "lib_two_speeds_life/one_of_two_zeroed",
    *NEVER,
    dict(forget=True),
    clip=None,
    slow=sgd(0.05, momentum=0.9),
)

# Parameters that the loss or the optimizer does not reach.
CUT, LOST = "stalled|vanishing|dead", "disconnected_parameters"


def new_head(model: nn.Module) -> None:
    """A head for other classes, put in when the optimizer holds the old one."""
    for name in ("pre_classifier", "classifier"):
        old = model.get_submodule(name)
        setattr(model, name, nn.Linear(old.in_features, old.out_features))  # type: ignore[arg-type]


broken(
    "lib_distilbert_glyphs_head_only/head_behind_the_optimizer",
    CUT,
    LOST,
    (None, "classifier", "pre_classifier"),
    dict(late=new_head),
)
broken(
    "lib_gpt2_manual_words_lora/wrapped_behind_the_optimizer",
    CUT,
    LOST,
    None,
    dict(surgery=untouched, late=tune.lora(("c_attn", "c_fc"), 4, 8.0)),
)
broken(
    "lib_ddpg_cart/actions_detached",
    CUT,
    LOST,
    (None, "actor", "actor.4", "final", "critic", "critic.0"),
    dict(cut=True),
)
broken(
    "lib_moco_digits/queries_detached",
    CUT,
    LOST,
    (None, "projector", "projector.2"),
    dict(cut=True),
)

# What the optimizer keeps.
KEPT = ("optimizer_state", None)


def resumed(make: Optimizer, memory: float) -> Optimizer:
    """An Adam whose second moments are those of a run that had diverged."""

    def build(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        motor = make(parameters)
        for group in motor.param_groups:
            for p in group["params"]:
                zero, full = torch.zeros_like(p), torch.full_like(p, memory)
                motor.state[p] = dict(step=torch.tensor(4000.0), exp_avg=zero, exp_avg_sq=full)
        return motor

    return build


broken("lib_wav2vec2_sweeps/eps_ten", "stalled", *KEPT, dict(optimizer=adamw(3e-3, eps=10.0)))
broken("lib_nvp_moons/resumed", "stalled", *KEPT, dict(optimizer=resumed(adam(5e-3), 1e6)))
broken(
    "lib_supcon_digits_sgd/momentum_0999",
    HIGH,
    *KEPT,
    dict(optimizer=sgd(0.1, momentum=0.9995)),
)
broken(
    "lib_mamba_glyphs/betas_swapped",
    HIGH,
    *KEPT,
    dict(optimizer=adamw(8e-3, betas=(0.999, 0.9))),
    clip=None,
)
