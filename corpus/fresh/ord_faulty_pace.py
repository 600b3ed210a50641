"""Faulty rows of step size and scale, of the optimizer's use and of what it keeps."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import broken
from corpus.recipes import Optimizer, adam, adamw, sgd
from corpus.trainings import tasks
from corpus.trainings.fresh_ord_cells import simple
from corpus.trainings.optimizers import of
from corpus.trainings.seq_faults import Do, resumed
from corpus.trainings.surgery import put

HIGH = "exploding|oscillating|nonfinite|spike|saturated|dead|stalled"
RATE = ("learning_rate_too_high", None)
TOO_HIGH: dict[str, Optimizer] = {
    "ord_scripts_packed_lstm": adam(1.0),
    "ord_rows_encoder_class_token_pre": adamw(0.3),
    "ord_blocks_gat_much_dropped": adam(5.0, weight_decay=5e-4),
    "ord_heart_wave_gates": adam(1.0),
}
for twin, optimizer in TOO_HIGH.items():
    broken(f"{twin}/rate_high", HIGH, *RATE, dict(optimizer=optimizer))
broken("ord_sums_two_optimizers/rates_high", HIGH, *RATE, dict(lr=60.0))

SLOW = ("stalled", "learning_rate_too_low", None)
TOO_LOW: dict[str, Optimizer] = {
    "ord_words_lstm_sgd_rate_ten_tied": sgd(1e-3),
    "ord_blocks_sage_few_labels": adam(1e-6, weight_decay=5e-4),
    "ord_heart_wave_gates": adam(1e-7),
}
for twin, optimizer in TOO_LOW.items():
    broken(f"{twin}/rate_low", *SLOW, dict(optimizer=optimizer))
broken(
    "ord_rows_lstm_large_batch_cosine/decays_by_batch",
    *SLOW,
    dict(schedule=partial(schedules.ExponentialLR, gamma=0.3)),
)


# The number on which backward is called.
def weighted(factor: float, loss: tasks.Loss) -> tasks.Loss:
    """A loss times a constant."""
    return lambda out, y: factor * loss(out, y)


BIG = (HIGH, "loss_scale|learning_rate_too_high", None)
TINY = ("stalled|vanishing", "loss_scale|learning_rate_too_low", None)
broken(
    "ord_capitals_chain_summed_small_rate/rate_of_a_mean",
    *BIG,
    dict(reduce=torch.sum),
    reduce=torch.mean,
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "ord_brackets_gru_momentum/never_unscaled",
    *BIG,
    dict(loss=weighted(2.0**12, tasks.token_loss)),
    clip=None,
    optimizer=sgd(0.3, momentum=0.9),
)
broken(
    "ord_topics_ranked_pairs/weight_1e_6",
    *TINY,
    dict(factor=1e-6),
    optimizer=sgd(2.0, momentum=0.9),
)
broken(
    "ord_atlas_gin_loader/in_millionths",
    *TINY,
    dict(factor=1e-7),
    optimizer=sgd(1e-3, momentum=0.9),
    count=6,
)

# The scale of the input.
WIDE = "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled|spike"
INPUT = ("input_scale", None)
broken(
    "ord_seasons_lstm/passengers_uncounted",
    "saturated|vanishing|stalled",
    *INPUT,
    dict(scale_input=lambda x: 4000 + 1500 * x),
)
broken(
    "ord_pendulum_tcn_plain_momentum/in_micrometres",
    WIDE,
    *INPUT,
    dict(scale_input=lambda x: 5000 * x),
)
broken(
    "ord_tumours_gcn_momentum/x_3000",
    WIDE,
    *INPUT,
    dict(scale_input=lambda x: 3000 * x),
)
broken(
    "ord_blocks_sage_few_labels/x_1e_5",
    "stalled|vanishing",
    *INPUT,
    dict(scale=1e-5),
    optimizer=sgd(0.1, momentum=0.9),
)

# Gradients that are never zeroed.
NEVER = (HIGH, "gradients_not_zeroed", None, dict(zero=False))
broken("ord_rows_encoder_class_token_pre/never_zeroed", *NEVER, optimizer=adamw(1e-2))
broken("ord_brackets_chain/never_zeroed", *NEVER, optimizer=sgd(0.1, momentum=0.9))
broken("ord_words_gru_third_dropped/never_zeroed", *NEVER)
broken("ord_heart_codes_warm_divergence/never_zeroed", *NEVER)

# What the optimizer keeps.
KEPT = ("stalled", "optimizer_state", None)
broken("ord_lines_weighed_gru_smoothed/eps_ten", *KEPT, dict(optimizer=adam(3e-3, eps=10.0)))
broken(
    "ord_prose_minimal_rnn_carried/accumulator_full",
    *KEPT,
    dict(optimizer=of("Adagrad", lr=0.05, initial_accumulator_value=1e8)),
)
broken(
    "ord_sums_torch_transformer/resumed_after_divergence",
    *KEPT,
    dict(optimizer=resumed(adam(3e-3), 1e7)),
)
broken(
    "ord_life_neural_factors/resumed_after_divergence",
    *KEPT,
    dict(optimizer=resumed(adam(5e-3, betas=(0.9, 0.9999)), 1e6)),
)

# Parameters that the loss or the optimizer does not reach.
CUT = "stalled|vanishing|dead"
LOST = "disconnected_parameters"
broken(
    "ord_rows_tcn_weight_norm/other_model",
    CUT,
    LOST,
    None,
    dict(elsewhere=True),
)
broken(
    "ord_sums_two_optimizers/state_detached",
    CUT,
    LOST,
    (None, "gru", "embedding", ""),
    dict(cut=True),
    lr=0.3,
    steps=400,
)
broken(
    "ord_backwards_translator_looks/decoder_only",
    CUT,
    LOST,
    (None, "encoder", "embedding", "decoder", "concat"),
    dict(groups=lambda m: [*m.out.parameters()]),
)
broken(
    "ord_pendulum_writes_ahead/states_detached",
    CUT,
    LOST,
    (None, "between", "encoder", "rnn", "drop"),
    dict(surgery=put("between", partial(Do, torch.Tensor.detach))),
    model=simple(nn.GRU, 8, layers=2),
)
