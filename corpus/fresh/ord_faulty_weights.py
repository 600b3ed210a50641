"""Faulty rows of initialisation, activation, depth and recurrence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.fresh import broken
from corpus.recipes import Surgery, adam, adamw, sgd
from corpus.trainings import fresh_ord_tasks as own
from corpus.trainings import tasks
from corpus.trainings.fresh_ord_cells import hand_lstm, identity_recurrence, names_rnn, simple
from corpus.trainings.fresh_ord_graphs import blocks, factors, gcn
from corpus.trainings.fresh_ord_nets import bag, nano_gpt, neighbours, tcn
from corpus.trainings.seq_faults import Do, biased, drawn, kaiming, negative
from corpus.trainings.surgery import times

# Too large: torch's own N(0, 1) for vectors, or what somebody took for "normal".
LARGE = "weights_too_large"
BOTH_SIDES = ("user_factors", "item_factors")
broken(
    "ord_life_factors_sgd/vectors_normal_6",
    "exploding|nonfinite|oscillating",
    LARGE,
    (*BOTH_SIDES, "between"),
    dict(model=factors(6, 6.0)),
    optimizer=sgd(0.5),
)
broken(
    "ord_letters_nano_gpt_warm_cosine/std_3",
    "exploding|saturated|stalled|oscillating",
    LARGE,
    ANY,
    dict(model=nano_gpt(48, 2, 3.0)),
    optimizer=adamw(3e-3),
    schedule=None,
)
broken(
    "ord_lines_averaging_deep/unit_normal",
    "exploding|nonfinite|oscillating|dead",
    LARGE,
    ANY,
    dict(surgery=drawn(1.0)),
    model=bag(48, (64, 64, 64)),
    surgery=kaiming,
    optimizer=sgd(0.1, momentum=0.9),
)
broken(
    "ord_tumours_gcn_momentum/one_layer_x300",
    "exploding|nonfinite|oscillating|dead|spike",
    LARGE,
    ("gc.1", "acts.1", "norms.1"),
    dict(surgery=times("gc.1", 300.0)),
    optimizer=sgd(0.02, momentum=0.9),
)

# Too small.
SMALL = ("vanishing|stalled", "weights_too_small")
broken(
    "ord_topics_factors_adam_decayed/vectors_1e_6",
    *SMALL,
    (ANY,),
    dict(model=factors(8, 1e-6, False)),
    model=factors(8, 0.3, False),
    optimizer=sgd(3.0),
)
broken(
    "ord_rows_tcn_weight_norm/std_001",
    *SMALL,
    ANY,
    dict(surgery=drawn(0.01)),
    model=tcn(24, 3, weigh=False, skip=False),
    surgery=kaiming,
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "ord_tumours_gcn_momentum/uniform_small",
    *SMALL,
    ANY,
    dict(surgery=drawn(3e-3)),
)

# Activations that saturate, and a gate that is shut.
FLAT = "vanishing|saturated|stalled"
broken(
    "ord_lines_averaging_deep/sigmoid_six",
    FLAT,
    "saturating_activation",
    ANY,
    dict(model=bag(48, (64,) * 6, nn.Sigmoid)),
    model=bag(48, (64,) * 6, nn.Tanh),
    optimizer=adam(3e-3),
)
broken(
    "ord_recall_lstm_forgets_little/forgets_all",
    FLAT,
    "saturating_activation|recurrent_weights",
    ("forget_gate", ""),
    dict(model=hand_lstm(32, forget=-12.0)),
)
broken(
    "ord_blocks_gcn_ten_skips/sigmoid_five",
    FLAT + "|collapsed",
    "saturating_activation",
    ANY,
    dict(model=gcn(24, 5, nn.Sigmoid)),
    model=gcn(24, 5, nn.Tanh),
    optimizer=sgd(0.1, momentum=0.9),
)


# Activations without a bound.
def square(x: torch.Tensor) -> torch.Tensor:
    """A polynomial, as for networks on encrypted numbers."""
    return x * x


STEEP = ("exploding|nonfinite", "unbounded_activation")
broken(
    "ord_scripts_names_rnn/squares",
    *STEEP,
    ANY,
    dict(model=names_rnn(96, lambda x: x + x * x)),
)
broken(
    "ord_heart_encoder_forecasts/tcn_squares",
    *STEEP,
    ANY,
    dict(model=tcn(24, 3, partial(Do, square), weigh=False, skip=False)),
    model=tcn(24, 3, weigh=False, skip=False),
    surgery=kaiming,
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "ord_flowers_gcn_whole/cubes",
    *STEEP,
    ANY,
    dict(model=gcn(32, 4, partial(Do, lambda x: x**3 + x))),
    model=gcn(32, 4, nn.ReLU),
    surgery=kaiming,
    optimizer=sgd(0.05, momentum=0.9),
)

# Units that never open.
DEAD = ("dead|vanishing|stalled", "dead_relu")
broken(
    "ord_lines_averaging_false_labels/bias_minus_20",
    *DEAD,
    ("hidden.0", "hidden.1"),
    dict(surgery=biased("hidden.0", value=-20.0)),
    task=own.lines,
    model=bag(32, (48, 48)),
    optimizer=adam(3e-3),
)
broken(
    "ord_seasons_flat_windows_bottleneck/below_zero",
    *DEAD,
    ("1", "2"),
    dict(surgery=negative("1")),
    task=lambda: _between_zero_and_one(),
    model=lambda t: nn.Sequential(nn.Flatten(), nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 12)),
    optimizer=adam(1e-2),
)
broken(
    "ord_rows_tcn_weight_norm/bias_minus_30",
    *DEAD,
    ("network.1", "network.1.conv2", "network.1.act2"),
    dict(surgery=biased("network.1.conv2", value=-30.0)),
    model=tcn(24, 3, weigh=False, skip=False),
    optimizer=adam(3e-3),
)


def _between_zero_and_one() -> tasks.Task:
    """Windows of the seasons between zero and one, to be given back."""
    base = own.series("seasons", 12, scaled="minmax")
    return tasks.Task(base.x, base.x[..., 0], F.mse_loss, 12, "squares")


# Depth.
broken(
    "ord_flowers_gcn_whole/forty_eight_layers",
    "collapsed|vanishing|stalled|dead",
    "depth_without_skip",
    ANY,
    dict(model=gcn(24, 48)),
    task=partial(blocks, 60, 0.7),
    model=gcn(24, 3),
    surgery=kaiming,
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "ord_lines_bag_rate_five/fifty_layers",
    "collapsed|vanishing|shattered|stalled",
    "depth_without_skip",
    ANY,
    dict(model=bag(48, (48,) * 50)),
    model=bag(48, (48,) * 3),
    surgery=kaiming,
    optimizer=adam(2e-3),
    schedule=None,
    clip=None,
    batch=64,
    steps=150,
)
broken(
    "ord_letters_nano_gpt_untied_six_deep/sums_forgotten",
    "collapsed|vanishing|shattered|stalled|exploding",
    "depth_without_skip|normalization_without_skip",
    ANY,
    dict(model=nano_gpt(32, 8, 0.1, False, tied=False)),
    model=nano_gpt(32, 8, 0.1, True, tied=False),
    optimizer=adamw(8e-3),
    steps=100,
)
NORMS = ("exploding|shattered", "normalization_without_skip", ANY)
broken(
    "ord_letters_makemore_norms/forty_five",
    *NORMS,
    dict(model=neighbours(12, (48,) * 45, nn.ReLU, norm=True)),
    model=neighbours(12, (48, 48, 48), nn.ReLU, norm=True),
    task=partial(own.following, 4),
)
broken(
    "ord_lines_averaging_false_labels/norms_of_forty",
    *NORMS,
    dict(model=bag(48, (40,) * 40, norm=True)),
    model=bag(48, (40,) * 2, norm=True),
    task=own.lines,
    optimizer=sgd(0.05, momentum=0.9),
    steps=100,
)


# Recurrent weights.
def recurrent(name: str, change: Callable[[torch.Tensor], object]) -> Surgery:
    """What is done to a layer's recurrent matrices."""

    def surgery(model: nn.Module) -> None:
        with torch.no_grad():
            for key, p in model.get_submodule(name).named_parameters():
                if "weight_hh" in key:
                    change(p)

    return surgery


broken(
    "ord_rows_identity_rnn/two_times_identity",
    "exploding|nonfinite",
    "recurrent_weights",
    "rnn",
    dict(init=identity_recurrence(2.5)),
    clip=None,
)
broken(
    "ord_recall_lstm_forgets_little/rnn_tenth",
    "vanishing|stalled",
    "recurrent_weights",
    "rnn",
    dict(init=identity_recurrence(0.1)),
    model=simple(nn.RNN, 48),
    init=identity_recurrence(),
    optimizer=adam(2e-3),
)
broken(
    "ord_sums_translator/recurrence_x40",
    "exploding|saturated|nonfinite",
    "recurrent_weights|weights_too_large",
    ("encoder", "decoder"),
    dict(
        surgery=lambda m: [recurrent(n, lambda p: p.mul_(40.0))(m) for n in ("encoder", "decoder")]
    ),
)
broken(
    "ord_logistic_tanh_rnn_two_layers/uniform_two",
    "exploding|saturated",
    "recurrent_weights|weights_too_large",
    "rnn",
    dict(surgery=recurrent("rnn", lambda p: nn.init.uniform_(p, -3.0, 3.0))),
    optimizer=sgd(0.05, momentum=0.9),
    task=partial(own.series, "pendulum", 24, 2),
)
