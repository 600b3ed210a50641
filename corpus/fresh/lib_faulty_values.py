"""Faulty rows of values: bad batches, numbers that are none, ranges that are left, last layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.fresh import broken
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import fresh_lib_nets as nets
from corpus.trainings.seq_faults import Do
from corpus.trainings.surgery import put

Change = Callable[[torch.Tensor, torch.Tensor], Pair]


def at(step: int, change: Change) -> Poison:
    """Touch the batch of one step."""
    return lambda now, x, y: change(x.clone(), y.clone()) if now == step else (x, y)


def blown(factor: float, answers: bool = False) -> Change:
    """The batch, or its answers, in another unit."""
    return lambda x, y: (x, y * factor) if answers else (x * factor, y)


def spoil(value: float, answers: bool = False) -> Change:
    """One number is replaced."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        (y if answers else x).view(-1)[11] = value
        return x, y

    return change


# One batch that is not like the others.
BAD = ("spike|exploding|nonfinite|dead|saturated", "bad_batch", None)
broken(
    "lib_flow_matching_roll_sgd/batch_x1e4",
    *BAD,
    dict(poison=at(180, blown(1e4))),
    clip=None,
)
broken("lib_hardened_continent_ridge/batch_x3000", *BAD, dict(poison=at(90, blown(3000.0))))
broken(
    "lib_rnn_mackey_sgd/answers_x1e5",
    *BAD,
    dict(poison=at(150, blown(1e5, True))),
    clip=None,
    optimizer=sgd(0.02, momentum=0.9),
)

# NaN and infinity in what comes in.
NAN = ("nonfinite", "nonfinite_input", None)
broken("lib_wav2vec2_sweeps/nan_sample", *NAN, dict(poison=at(40, spoil(float("nan")))))
broken("lib_x_valve_continuous/nan_answer", *NAN, dict(poison=at(70, spoil(float("nan"), True))))
broken("lib_forecaster_lorenz/inf_number", *NAN, dict(poison=at(90, spoil(float("inf")))))


def lost_reward(now: int, reward: torch.Tensor) -> torch.Tensor:
    """The simulator returns no number at one moment."""
    return torch.where(torch.arange(len(reward)) == 3, torch.nan, reward) if now == 500 else reward


broken("lib_dqn_pole_tutorial/nan_reward", *NAN, dict(reward=lost_reward))

# Ranges that are left.
broken(
    "lib_ddpm_rings_half/scaled_loss",
    "nonfinite",
    "dtype_overflow|loss_scale",
    None,
    dict(loss=lambda out, y: 2.0**17 * F.mse_loss(out, y)),
)
broken(
    "lib_ddpm_rings_half/eps",
    "nonfinite|exploding",
    "dtype_underflow|optimizer_state|dtype_overflow|undefined_operation",
    None,
    dict(optimizer=adam(3e-3, eps=1e-8)),
)


def by_hand(x: torch.Tensor) -> torch.Tensor:
    """Logarithm of a softmax by hand, of heat 0.02, without its largest taken off."""
    e = torch.exp(x / 0.02)
    return (e / e.sum(1, keepdim=True)).log()


def halves(x: torch.Tensor) -> torch.Tensor:
    """The root mean square of large numbers, counted in half precision."""
    big = (2000 * x).half()
    return (big / big.square().mean(-1, keepdim=True).sqrt().clamp_min(0.1)).float()


broken(
    "lib_leconv_wine_sgd/softmax_by_hand",
    "nonfinite",
    "dtype_overflow|undefined_operation",
    "out",
    dict(init=put("out", partial(Do, by_hand))),
)
broken(
    "lib_lstm_tides_huber/half_norm",
    "nonfinite|vanishing|dead|stalled|collapsed",
    "dtype_overflow",
    ("act",),
    dict(init=put("act", partial(Do, halves))),
    init=put("act", partial(Do, lambda x: x / x.square().mean(-1, keepdim=True).sqrt())),
)
UNDER = ("vanishing|stalled|dead", "dtype_underflow", None)
TINY = adam(3e-3, eps=1e-20)
broken(
    "lib_forecaster_lorenz/half_without_scaler",
    *UNDER,
    dict(mixed=torch.float16),
    loss=lambda out, y: 1e-9 * F.mse_loss(out.float(), y),
    optimizer=TINY,
    steps=60,
)
broken(
    "lib_leconv_wine_sgd/bfloat16_small_steps",
    "stalled",
    "dtype_underflow|learning_rate_too_low",
    None,
    dict(dtype=torch.bfloat16),
    optimizer=sgd(2e-4, momentum=0.0),
    steps=400,
)

# Operations that left their domain.
LOST = ("nonfinite", "undefined_operation")
broken(
    "lib_actor_critic_cart_normal/spread_zero",
    *LOST,
    (None, "actor", "actor.4"),
    dict(spread=torch.relu),
)
broken(
    "lib_kipf_by_hand_wine/no_way_in",
    *LOST,
    ("convs.0", None),
    dict(model=nets.nodes(lambda g, a, b: nets.Mean(a, b, False), 28)),
)


def strict(model: nn.Module) -> None:
    """A mask that hides oneself as well."""
    model.behind = 0


broken(
    "lib_encoder_code_sgd_steps/first_row_hidden",
    *LOST,
    (
        None,
        "transformer_encoder",
        "transformer_encoder.layers.0",
        "transformer_encoder.layers.0.self_attn",
    ),
    dict(init=strict),
    steps=60,
)

# What stands behind the last layer.
BOUND, MISMATCH = "saturated|stalled|vanishing|dead", "output_activation_mismatch"
broken("lib_ddpm_moons/sigmoid", BOUND, MISMATCH, ("final", None), dict(final=nn.Sigmoid))
broken(
    "lib_lstm_tides_huber/relu6", BOUND, MISMATCH, ("out", None), dict(init=put("out", nn.ReLU6))
)
broken(
    "lib_dqn_pole_fallen_minus_one/softmax",
    BOUND,
    MISMATCH,
    ("5", None),
    dict(out=partial(nn.Softmax, dim=1)),
)
broken(
    "lib_transformer_dates/softmax",
    BOUND,
    MISMATCH,
    ("generator", "generator.1", None),
    dict(init=put("generator", lambda: nn.Sequential(nn.Linear(32, 39), nn.Softmax(-1)))),
)
